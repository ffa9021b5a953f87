from shim.console import MISUSED, fail, not_installed, run


def main() -> None:
    """Entry point of `convert`: in one line what is not installed."""
    try:
        from converter.cli import main_group
    except ModuleNotFoundError as error:
        fail("convert", not_installed(error), MISUSED)
    run(main_group, "convert")


if __name__ == "__main__":
    main()
