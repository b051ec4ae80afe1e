"""``python -m fastmmd.info``: what was built, and what runs here."""

from __future__ import annotations

from fastmmd.installation import build_info


def main() -> None:
    info = build_info()
    backends = info.pop("backends")
    for key, value in info.items():
        print(f"{key + ':':16} {value}")
    for name, reason in backends.items():
        print(f"{'backend ' + name + ':':20} {'runs here' if reason is None else 'no: ' + reason}")


if __name__ == "__main__":
    main()
