"""The doctor's findings and the burn probe beneath them."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import pytest

from grove.bench.core.probe import Probe, burn_probe
from grove.commands import doctor
from grove.commands.doctor import Check
from grove.common import machine


def test_every_look_has_a_finding_and_every_fault_a_remedy() -> None:
    checks = doctor.run_checks()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names) >= 11
    assert all(check.value for check in checks)
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks)
    out = io.StringIO()
    doctor.render(checks, out)
    lines = out.getvalue().splitlines()
    assert len(lines) == len(checks) + sum(bool(check.remedy) for check in checks) + 2
    assert all(check.value in out.getvalue() for check in checks)
    assert "\x1b" not in out.getvalue()


def test_verdict_counts_failures() -> None:
    out = io.StringIO()
    doctor.render([Check("a", "ok", "x"), Check("b", "fail", "y", "do z")], out)
    assert "1 of 2 checks failed" in out.getvalue()
    doctor.render([Check("[/x]", "warn", "y", "do z")], out)
    assert out.getvalue().endswith("-> do z\n\nGrove can run here; 1 thing could be better.\n")


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (doctor.judge_cores(Probe(1.0, 3.9, 4), "of 8"), "ok"),
        (doctor.judge_cores(Probe(1.0, 1.1, 2), "of 2"), "warn"),
        (doctor.judge_torch(None, gpu=False), "fail"),
        (doctor.judge_torch(machine.TorchBuild("2.13.0+cpu", ""), gpu=False), "ok"),
        (doctor.judge_torch(machine.TorchBuild("2.13.0+cpu", ""), gpu=True), "warn"),
        (doctor.judge_torch(machine.TorchBuild("2.13.0", "12.8"), gpu=True), "ok"),
        (doctor.judge_limit("open files", 256, 1024, "raise it"), "warn"),
        (doctor.judge_limit("open files", math.inf, 1024, "raise it"), "ok"),
    ],
)
def test_judgement(check: Check, status: str) -> None:
    assert check.status == status
    assert bool(check.remedy) == (status != "ok")


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.judge_writable("kernel cache", tmp_path / "new", "remedy").status == "ok"
    assert doctor.judge_writable("kernel cache", tmp_path / "file" / "x", "remedy").status == "fail"
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    assert doctor.judge_socket_folder(deep).status == "warn"
    assert doctor.judge_socket_folder(Path("/absent")).status == "fail"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "new", deep.name]


def test_probe_measures_and_compares() -> None:
    probe = burn_probe(0.02, cores=2)
    assert probe.cores == 2
    assert Probe(100.0, 200.0, 2).moved(Probe(100.0, 150.0, 2)) == pytest.approx(0.25)
    assert probe.moved(probe) == 0


def test_machine_facts_are_plain_and_need_no_torch() -> None:
    program = (
        "import json, sys; from common import machine; json.dumps(machine.describe()); machine.torch_build();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
    assert 1 <= machine.usable_cores() <= machine.affinity_cores()
    assert machine.free_memory_bytes() > 0


@pytest.mark.parametrize(("text", "cores"), [("max 100000", math.inf), ("150000 100000", 1.5), ("nonsense", math.inf)])
def test_cpu_quota_of_a_control_group(tmp_path: Path, text: str, cores: float) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert machine._quota_v2(tmp_path / "cpu.max") == cores
