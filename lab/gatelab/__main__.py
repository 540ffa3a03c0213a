"""Runs the lab: `python3 -m gatelab --help` says with what; lab/run gives it everything."""
import argparse
import inspect
import itertools
import signal
import sys
import time
import traceback
from pathlib import Path

from . import report, scenarios
from .codes import Authority, Passenger
from .gate import Gate
from .timeserver import TimeServer
from .wechat import WeChat


class Lab:
    """What all scenarios share: where things are, the WeChat, and who issues codes."""

    def __init__(self, words):
        self.folder, self.image = words.folder.resolve(), words.image.resolve()
        self.package = words.package
        self.authority = Authority()
        self.accounts = itertools.count(int(time.time()) * 1000)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wechat = WeChat(words.host_program, self.folder / "sandbox.log")
        self.time_server = TimeServer()
        self.cuts, self.results, self.version = words.cuts, [], None

    def new_code(self):
        """Of a passenger who was never here."""
        return Passenger(self.authority, next(self.accounts)).code()

    def install(self):
        """A machine that was installed and switched off: what every other one begins with."""
        with Gate(self, "installed", installed=False) as gate:
            gate.power_on()
            gate.wait_up()
            kept = self.judge(scenarios.the_package_installs_and_the_first_code_opens, gate)
            if kept:
                self.version = gate.status()["version"]
                gate.power_off()
        return kept

    def judge(self, scenario, *subject):
        """Runs one scenario and notes what it saw."""
        name, began = scenario.__name__.replace("_", " "), time.monotonic()
        print(f"== {name}", flush=True)
        try:
            seen, kept = scenario(*subject), True
        except Exception as error:  # noqa: BLE001 - whatever it is, the promise was not seen to be kept
            traceback.print_exc()
            seen, kept = f"NOT KEPT: {error}", False
            for gate in subject:
                if isinstance(gate, Gate) and gate.process:
                    print(gate.log_if_it_answers())
        self.results.append(report.Result(name, seen, time.monotonic() - began, kept))
        print(f"   {seen} ({time.monotonic() - began:.0f} s)", flush=True)
        return kept

    def day(self, chosen):
        """One machine for everything that leaves it as it was."""
        with Gate(self, "day") as gate:
            gate.power_on()
            gate.wait_up()
            gate.wait_ready()
            for scenario in chosen:
                self.judge(scenario, gate)

    def close(self):
        self.wechat.close()
        self.time_server.close()


def words_of(arguments):
    parser = argparse.ArgumentParser(prog="gatelab", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the machines of this run")
    parser.add_argument("--image", type=Path, required=True, help="what lab/image has made")
    parser.add_argument("--host-program", type=Path, required=True, help="faregate for this machine, with the sandbox")
    parser.add_argument("--package", type=Path, required=True, help="the arm64 .deb")
    parser.add_argument("--cuts", type=int, default=20, help="power cuts")
    parser.add_argument("--report", type=Path, help="written after a full run")
    parser.add_argument("scenario", nargs="*", help="names or parts of names; all when none is given")
    return parser.parse_args(arguments)


def main():
    words = words_of(sys.argv[1:])
    # Machines are switched off also when the run is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    wanted = lambda scenario: not words.scenario or any(part in scenario.__name__ for part in words.scenario)
    lab = Lab(words)
    try:
        if lab.install():
            if chosen := list(filter(wanted, scenarios.DAY)):
                lab.day(chosen)
            for scenario in filter(wanted, scenarios.OWN_MACHINE):
                takes_cuts = "cuts" in inspect.signature(scenario).parameters
                lab.judge(scenario, *([lab, words.cuts] if takes_cuts else [lab]))
    finally:
        lab.close()
    if words.report and lab.version and not words.scenario:
        report.write(words.report, lab)
    kept = sum(result.kept for result in lab.results)
    print(f"{kept} of {len(lab.results)} promises kept")
    return 0 if kept == len(lab.results) else 1


if __name__ == "__main__":
    sys.exit(main())
