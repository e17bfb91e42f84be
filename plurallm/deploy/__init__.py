"""What guards a deployment's processes: the proxy on the public port, the bounded executor."""
