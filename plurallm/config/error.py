"""What is wrong with a configuration."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise ``ConfigError`` naming a key whose value breaks a rule."""
    if not holds:
        raise ConfigError(f"{key} must be {rule}, but is {value!r}")
