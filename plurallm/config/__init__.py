"""The configuration: what ``conf/`` may say, the device, and the seeded generators."""
