"""The choices of ``conf/data``, a file each."""
