"""`python -m trainer_hooks run …`: the same as `trainvitals run …`, with the hook alone."""

import sys

from trainer_hooks import run


def main() -> int:
    program = "python -m trainer_hooks"
    if sys.argv[1:2] == ["run"]:
        return run.main(sys.argv[2:], f"{program} run")
    print(run.USAGE.format(f"{program} run"), file=sys.stderr)
    return 2


sys.exit(main())
