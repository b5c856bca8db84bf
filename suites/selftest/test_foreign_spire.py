"""CI's deployment of a SPIRE that is not the suite's, and what it demands of a run there."""

import importlib.util
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / ".ci" / "foreign-spire"
IMAGES = ("SPIRE_SERVER", "SPIRE_AGENT", "SPIRE_CONTROLLER_MANAGER", "WORKLOAD")


@pytest.fixture(scope="module")
def script() -> Any:  # noqa: ANN401  a module that is no package's
    """The script, loaded from its file."""
    spec = importlib.util.spec_from_file_location("foreign_spire", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def report(**results: tuple[str, str]) -> dict[str, Any]:
    """A report in which each requirement has one check, with a result and a message."""
    return {
        "requirements": [
            {
                "id": name.replace("_", "-"),
                "result": result,
                "checks": [{"id": f"{name}.py", "outcome": result, "message": message}],
            }
            for name, (result, message) in results.items()
        ]
    }


LACKING = ("unsupported", "no unregistered-process here: it gives pods identities: spiffe://a/b")


@pytest.mark.parametrize(
    ("results", "wrong"),
    [
        pytest.param({"A_1": ("pass", ""), "A_2": LACKING}, [], id="sound"),
        pytest.param({"A_1": ("known-deviation", ""), "A_2": LACKING}, [], id="deviation"),
        pytest.param(
            {"A_1": ("pass", ""), "A_2": LACKING, "A_3": ("fail", "no")},
            ["A-3: A_3.py is fail: no"],
            id="red",
        ),
        pytest.param(
            {"A_1": ("pass", ""), "A_2": LACKING, "A_3": ("error", "oh")},
            ["A-3: A_3.py is error: oh"],
            id="error",
        ),
        pytest.param(
            {"A_1": ("unsupported", ""), "A_2": LACKING},
            ["only 0 requirements hold, not 1"],
            id="too-few-hold",
        ),
        pytest.param(
            {"A_1": ("pass", ""), "A_2": ("unsupported", "no reason")},
            ["A-2 is unsupported and not unsupported because 'gives pods identities'"],
            id="another-reason",
        ),
        pytest.param(
            {"A_1": ("pass", ""), "A_2": ("pass", "")},
            ["A-2 is pass and not unsupported because 'gives pods identities'"],
            id="judged-all-the-same",
        ),
    ],
)
def test_run_on_a_sound_spire_is_judged(
    script: Any,  # noqa: ANN401  a module
    results: dict[str, tuple[str, str]],
    wrong: list[str],
) -> None:
    """Nothing is red or an error, enough holds, and what does not hold has its reason."""
    variant = script.Variant(1, {"A-2": "gives pods identities"})

    assert script.judge(report(**results), variant) == wrong


def test_run_on_a_wrong_one_must_be_red(script: Any) -> None:  # noqa: ANN401  a module
    """Those requirements that it breaks."""
    variant = script.Variant(0, {}, red=("A-1", "A-2"))
    results = report(A_1=("fail", "no"), A_2=("pass", ""))

    assert script.judge(results, variant) == ["A-2 is pass and not red"]


def test_manifests_are_whole(script: Any) -> None:  # noqa: ANN401  a module
    """Every variant's files are there, are YAML, and ask for nothing that is not filled in."""
    values = {**script.SAID, **dict.fromkeys(IMAGES, "image:1")}
    names = {n for variant in script.VARIANTS.values() for n in variant.identities}
    kinds = []
    for name in ("server.yaml", "agent.yaml", *sorted(names)):
        text = (FOLDER / name).read_text(encoding="utf-8")
        kinds += [
            body["kind"] for body in yaml.safe_load_all(string.Template(text).substitute(values))
        ]

    assert {"StatefulSet", "DaemonSet", "ClusterSPIFFEID"} <= set(kinds)
    for variant in script.VARIANTS.values():
        assert set(variant.said) <= set(script.SAID)
