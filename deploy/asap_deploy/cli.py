"""What runs on the robot computer: ``asap-deploy {check,run,record,recover}``.

    asap-deploy check squat.onnx --link twin
    asap-deploy run squat.onnx --link twin --out runs/squat.mcap

Exit status: 0 done, 1 a check failed or the robot was damped for a fault, 2 bad input (one line on
stderr), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import asap_deploy
from asap_deploy.errors import InputError
from asap_deploy.golden import load_policy, verify
from asap_deploy.keys import HELP, Keys, RemoteKeys, ScriptedKeys, TerminalKeys
from asap_deploy.ladder import climb
from asap_deploy.link import LINK_KINDS, LinkSpec
from asap_deploy.links import open_link
from asap_deploy.listen import listen
from asap_deploy.loop import Session, closing
from asap_deploy.loop import run as run_session
from asap_deploy.preflight import (
    FAIL,
    OK,
    WARN,
    Check,
    failed,
    look_at_contracts,
    look_at_disk,
    look_at_policies,
    look_at_robot,
    time_itself,
)
from asap_deploy.recording import open_recording, recover
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import HOLD_S, Player
from asap_deploy.twin_wire import DEFAULT_ADDRESS

STAND = "stand.onnx"
DONE, CHECK_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command.

    Args:
        arguments: Words after ``asap-deploy``; those of the process by default.

    Returns:
        The exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return DONE
    try:
        status: int = options.run(options)
        return status
    except InputError as error:
        print(f"asap-deploy: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("asap-deploy: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all our commands do."""

    def error(self, message: str) -> Any:
        """End with status 2."""
        print(f"asap-deploy: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="asap-deploy", description="Run a policy on a robot, safely.")
    version = f"asap-deploy {asap_deploy.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    check = commands.add_parser("check", help="look at policy, robot and machine; nothing moves")
    run = commands.add_parser("run", help="passive, damp, stand, track: every step when you say so")
    for one in (check, run):
        one.add_argument("policy", nargs="+", type=Path, help="policies (.onnx), in order")
        one.add_argument("--between", type=Path, help="policy that stands after every clip; "
                         f"{STAND} beside the first policy by default")  # fmt: skip
        one.add_argument("--hold", action="store_true",
                         help="after a clip hold its last frame instead, for seconds")  # fmt: skip
        one.add_argument(
            "--self-test-s", type=float, default=2.0, help="of the timing test, and to listen [s]"
        )
        one.add_argument("--script", help="orders instead of a terminal, for tests; simulated only")
        one.add_argument("--core", type=int, help="CPU to stay on")
    check.add_argument("--ladder", action="store_true",
                       help="then: read only, damping, 20 %% gains, full; asks first")  # fmt: skip
    check.add_argument("--answers", help="answers to the ladder, for tests; simulated only: y,y,n")
    run.add_argument("--gains", type=float, default=1.0, help="part of the policy's gains, 0 to 1")
    run.add_argument("--seconds", type=float, help="end after this time [s]")
    record = commands.add_parser("record", help="write down what a robot says; read only")
    record.add_argument("--seconds", type=float, help="end after this time [s]")
    for one in (check, run, record):
        one.add_argument("--link", choices=LINK_KINDS, required=True)
        one.add_argument("--address", default="", help=f"host:port of a twin ({DEFAULT_ADDRESS}), "
                                                       "or the network interface")  # fmt: skip
        one.add_argument("--real", action="store_true", help="this is a real robot")
        one.add_argument("--out", type=Path, required=one is record, help="recording (.mcap)")
    rescue = commands.add_parser("recover", help="finish recordings that were cut off")
    rescue.add_argument("files", nargs="+", type=Path)
    for one in (check, run, record, rescue):
        one.add_argument("--json", type=Path, help="write the result to this file")
    for one, function in ((check, _check), (run, _run), (record, _record), (rescue, _recover)):
        one.set_defaults(run=function)
    return parser


def _check(options: argparse.Namespace) -> int:
    _, _, limits, checks = _prepare(options, gain=1.0)
    _show(checks)
    facts: Dict[str, Any] = {"checks": [check._asdict() for check in checks]}
    status = CHECK_FAILED if failed(checks) else DONE
    if options.ladder and status == DONE:
        ask = _asker(options)
        options.json = options.json or Path(time.strftime("ladder-%Y%m%d-%H%M%S.json"))
        rungs = climb(options.policy, limits, _spec(options), ask, print,
                      lambda: _stoppers(options), options.out)  # fmt: skip
        print(f"answers: {options.json}")
        facts["ladder"] = [rung._asdict() for rung in rungs]
        status = DONE if all(rung.passed for rung in rungs) else CHECK_FAILED
    print("FAILED: do not arm" if status else "all checks passed")
    return _finish(options, status, facts)


def _run(options: argparse.Namespace) -> int:
    if not 0.0 < options.gains <= 1.0:
        raise InputError(f"--gains must be above 0 and at most 1; got {options.gains:g}")
    keys = _operators(options)
    with closing(keys):
        players, between, limits, checks = _prepare(options, gain=options.gains)
        _show([check for check in checks if check.verdict != OK])
        if failed(checks):
            print("not armed: a check failed; `asap-deploy check` shows all", file=sys.stderr)
            return _finish(options, CHECK_FAILED, {"checks": [c._asdict() for c in checks]})
        print(HELP if not options.script else f"script: {options.script}", flush=True)
        session = Session(
            players=players, limits=limits, link=_spec(options), keys=keys, between=between,
            out=options.out, facts=_facts(options, players, checks), core=options.core,
            seconds=options.seconds, say=_say,
        )  # fmt: skip
        report = run_session(session)
    status = _finish(options, report.status, report.facts)
    for line in report.lines:
        print(line)
    return status


def _record(options: argparse.Namespace) -> int:
    link = open_link(_spec(options, read_only=True))
    told: List[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.append(1))
    end_s = float("inf") if options.seconds is None else time.monotonic() + options.seconds
    try:
        found = listen(link, options.out, {"source": "asap-deploy record", "link": options.link},
                       until=lambda: bool(told) or time.monotonic() >= end_s)  # fmt: skip
    finally:
        link.close()
    print(f"{found['states']} states, {found.get('missed', 0)} missed: {options.out}")
    for problem in found.get("problems", ()):
        print(problem, file=sys.stderr)
    return _finish(options, CHECK_FAILED if found.get("problems") else DONE, found)


def _recover(options: argparse.Namespace) -> int:
    written = []
    for path in options.files:
        target = recover(path)
        tables = open_recording(target)
        written.append(str(target))
        print(f"{target}: {len(tables.states)} states, {len(tables.commands)} commands")
    return _finish(options, DONE, {"written": written})


def _prepare(options: argparse.Namespace, gain: float
             ) -> Tuple[List[Player], Optional[Player], SafetyLimits, List[Check]]:  # fmt: skip
    """Policies, limits, and every check; the link is let go again."""
    stander = _stander(options)
    paths = [*options.policy, *([stander] if stander else [])]
    policies = [load_policy(path) for path in paths]
    worst = [verify(policy) for policy in policies]
    link = open_link(_spec(options, read_only=True))
    try:
        names = link.facts.joint_names
        limits = SafetyLimits.of([p.contract for p in policies], names, [p.clip for p in policies])
        players = [Player(policy, path.stem, names, gain=gain)
                   for policy, path in zip(policies, paths)]  # fmt: skip
        checks = look_at_policies(players, worst)
        checks += look_at_contracts([policy.contract for policy in policies], link.facts)
        checks += look_at_robot(link, limits, min(1.0, max(0.3, options.self_test_s)))
    finally:
        link.close()
    checks += time_itself(players[0], limits, options.self_test_s)
    checks += look_at_disk(options.out)
    between = players.pop() if stander else None
    text = (
        f"'{between.name}' stands"
        if between
        else (f"nobody stands: after {HOLD_S:.0f} s the robot is damped (--between {STAND})")
    )
    checks.append(Check(OK if between else WARN, "after a clip", text))
    if link.facts.is_real and not options.real:
        checks.append(Check(FAIL, "real robot", "say --real if you mean it"))
    return players, between, limits, checks


def _stander(options: argparse.Namespace) -> Optional[Path]:
    """Who takes over when a clip is over; None has its own policy hold."""
    if options.hold and options.between:
        raise InputError("--hold and --between exclude each other")
    beside: Path = options.policy[0].with_name(STAND)
    if options.between or options.hold:
        found: Optional[Path] = options.between
        return found
    return beside if beside.is_file() else None


def _spec(options: argparse.Namespace, read_only: bool = False) -> LinkSpec:
    address = options.address or (DEFAULT_ADDRESS if options.link == "twin" else "")
    return LinkSpec(options.link, address, real=options.real, read_only=read_only)


def _simulated(options: argparse.Namespace) -> bool:
    """Whether no robot can be meant: a twin, or DDS that does not leave this machine."""
    interface = options.address.partition(":")[0]
    return options.link == "twin" or (interface == "lo" and not options.real)


def _operators(options: argparse.Namespace) -> List[Keys]:
    """Who may arm: a person at a terminal and the remote, or, on a twin, a script."""
    if options.script is None:
        return [TerminalKeys(), RemoteKeys()]
    if not _simulated(options):
        raise InputError("--script drives simulated robots only: a real one needs a person")
    return [ScriptedKeys(options.script)]


def _stoppers(options: argparse.Namespace) -> List[Keys]:
    """Who may stop a rung of the ladder: who answers its questions, and the remote."""
    return [RemoteKeys()] if options.answers is not None else [TerminalKeys(), RemoteKeys()]


def _asker(options: argparse.Namespace) -> Callable[[str], str]:
    """Who answers the ladder's questions."""
    if options.answers is not None:
        if not _simulated(options):
            raise InputError("--answers is for simulated robots only: a real one needs a person")
        left = options.answers.split(",")
        return lambda question: left.pop(0) if left else "n"
    if not sys.stdin.isatty():
        raise InputError("there is no terminal, so nobody can answer: run this in one (ssh -t)")
    return _answer


def _answer(question: str) -> str:
    """What a person types; a Ctrl-C or a closed terminal is a no, and what was said is kept."""
    try:
        return input(question)
    except (EOFError, KeyboardInterrupt):
        return "n"


def _facts(options: argparse.Namespace, players: Sequence[Player],
           checks: Sequence[Check]) -> Dict[str, Any]:  # fmt: skip
    """What a recording says about the run."""
    return {
        "source": "asap-deploy run",
        "robot": players[0].policy.contract.robot,
        "policies": [
            {"name": player.name, "sha256": player.policy.contract.sha256} for player in players
        ],
        "stiffness": [float(v) for v in players[0].stiffness],
        "damping": [float(v) for v in players[0].damping],
        "link": options.link,
        "gains": options.gains,
        "checks": [[c.verdict, c.name, c.text.split("\n")[0]] for c in checks if c.verdict != OK],
        "version": asap_deploy.__version__,
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _show(checks: Sequence[Check]) -> None:
    for check in checks:
        first, *rest = check.text.split("\n")
        print(f"{check.verdict:4}  {check.name:18} {first}")
        for line in rest:
            print(f"        {line}")


def _finish(options: argparse.Namespace, status: int, facts: Dict[str, Any]) -> int:
    if options.json is not None:
        text = json.dumps({"command": f"asap-deploy {options.command}", "status": status, **facts},
                          indent=1, default=str)  # fmt: skip
        try:
            options.json.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=options.json) from None
    return status


if __name__ == "__main__":
    sys.exit(main())
