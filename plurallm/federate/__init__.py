"""The Flower app: server, clients, strategies, privacy, nodes."""
