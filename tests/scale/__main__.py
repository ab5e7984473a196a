"""``python -m scale``."""

from scale.cli import app

if __name__ == "__main__":
    app()
