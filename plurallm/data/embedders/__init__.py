"""The choices of ``conf/embedding``, a file each."""
