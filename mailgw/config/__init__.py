"""The configuration: its model, and how a TOML file becomes one."""
