"""A requirement's source leads to where it can be read."""

from pathlib import Path

import pytest

from svidproof.model import catalogue
from svidproof.model.manifests import data_root
from svidproof.report.html.sources import Source, sources

SPIFFE = "https://github.com/spiffe/spiffe/blob/main/standards"
SPIRE = "https://github.com/spiffe/spire"
ENVOY = "https://www.envoyproxy.io/docs/envoy/latest"
RFC = "https://www.rfc-editor.org/rfc/rfc"


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        pytest.param("X509-SVID 4.3", [f"{SPIFFE}/X509-SVID.md#43-key-usage"], id="clause"),
        pytest.param("X509-SVID 99", [f"{SPIFFE}/X509-SVID.md"], id="no-such-clause"),
        pytest.param(
            "Workload_API 4.3, 5.2.1",
            [
                f"{SPIFFE}/SPIFFE_Workload_API.md#43-stream-responses",
                f"{SPIFFE}/SPIFFE_Workload_API.md#521-fetchx509svid",
            ],
            id="two-clauses",
        ),
        pytest.param(
            "Federation 5.2.1",
            [f"{SPIFFE}/SPIFFE_Federation.md#521-web-pki-https_web"],
            id="heading-with-code",
        ),
        pytest.param(
            "X509-SVID 5.1, RFC 5280 6.1, 7",
            [
                f"{SPIFFE}/X509-SVID.md#51-path-validation",
                f"{RFC}5280.html#section-6.1",
                f"{RFC}5280.html#section-7",
            ],
            id="two-documents",
        ),
        pytest.param(
            "X509-SVID 2; RFC 8996",
            [f"{SPIFFE}/X509-SVID.md#2-spiffe-id", f"{RFC}8996.html"],
            id="semicolon",
        ),
        pytest.param("RFC 8996", [f"{RFC}8996.html"], id="rfc"),
        pytest.param(
            "spiffe/spire#480, #481",
            [
                "https://github.com/spiffe/spire/issues/480",
                "https://github.com/spiffe/spire/issues/481",
            ],
            id="issues",
        ),
        pytest.param(
            "SPIRE pkg/common/rotationutil",
            [f"{SPIRE}/tree/v1.15.3/pkg/common/rotationutil"],
            id="directory",
        ),
        pytest.param(
            "SPIRE doc/spire_agent.md workload_x509_svid_key_type",
            [f"{SPIRE}/blob/v1.15.3/doc/spire_agent.md"],
            id="file",
        ),
        pytest.param(
            "Envoy configuration/http/http_conn_man/headers#x-forwarded-client-cert",
            [f"{ENVOY}/configuration/http/http_conn_man/headers#x-forwarded-client-cert"],
            id="envoy-documentation",
        ),
        pytest.param("scenario api 3, 4", ["#scenario-api", "#scenario-api"], id="scenario"),
        pytest.param("scenario api on Kubernetes", ["#scenario-api"], id="scenario-elsewhere"),
        pytest.param("scenario nowhere 1", [None], id="unknown-scenario"),
        pytest.param("SPIRE ../../evil", [None], id="no-path"),
        pytest.param("javascript:alert(1)", [None], id="nonsense"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_source_leads_somewhere(text: str, urls: list[str | None]) -> None:
    """Clauses, RFCs, issues, files of the version under test, scenarios; else there is no link."""
    found = sources(text, spire="1.15.3", scenarios={"api"})

    assert [source.url for source in found] == urls
    assert ", ".join(source.text for source in found) == text.replace(";", ",")


@pytest.mark.parametrize("version", [None, "1.16.0-dev-ab12cd", "unknown"])
def test_build_of_ones_own_leads_to_main(version: str | None) -> None:
    """There is no tag for it."""
    [found] = sources("SPIRE doc/spire_agent.md", spire=version)

    assert found == Source("SPIRE doc/spire_agent.md", f"{SPIRE}/blob/main/doc/spire_agent.md")


def test_every_source_of_the_catalogue_leads_somewhere() -> None:
    """None is spelt in a way of its own."""
    found = catalogue.read(data_root() / "suites" / "catalogue.toml")
    scenarios = [p.stem for p in Path(data_root(), "manifests", "scenarios").glob("*.toml")]

    lost = [
        r.source
        for r in found.requirements
        if not all(s.url for s in sources(r.source, spire="1.15.3", scenarios=scenarios))
    ]

    assert not lost
