"""The choices of ``conf/strategy``, a file each."""
