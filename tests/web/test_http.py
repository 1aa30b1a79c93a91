"""The status page: read-only, for those who may, and nothing from a bucket is ever more than text in it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import get_type_hints

import aiohttp
import pytest
from house import Daemon, trainer, wait_until, write_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from ring_fixtures import served_ring

import ringfeed
from ringfeed.cli.report import LaneStatus, RingStatus, StoreStatus
from ringfeed.cli.status import ring_status
from ringfeed.health.evidence import Bound, Verdict
from ringfeed.shm.counters import DaemonCounts, Kind, RingCounts, StoreCounts, counters_of
from ringfeed.shm.failures import FailedPair, FailedPairs
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import LAYOUT_VERSION, Lane, Start
from ringfeed.torch.distributed import Ranks, default_group
from ringfeedd.config import load
from ringfeedd.config.listen import Listen
from ringfeedd.errors import ConfigError, StartError
from ringfeedd.fetch.health import RequestCounts, StoreHealth
from ringfeedd.reporting.retries import count_retries
from ringfeedd.ring.failures import Failure
from ringfeedd.system.histogram import DECODE_BOUNDS_S, FETCH_BOUNDS_S, Histogram, Times
from ringfeedd.system.work import Work
from ringfeedd.web import connections as http_connections
from ringfeedd.web import metrics
from ringfeedd.web.access import Guard
from ringfeedd.web.page.document import POLICY, status_page
from ringfeedd.web.server import HttpServer
from ringfeedd.web.snapshot import RingSnapshot, look, problems
from ringfeedd.web.token import TokenFile, read_token

TOKEN = "correct horse battery staple"
HERE, ANYWHERE = Listen("127.0.0.1", 9753), Listen("0.0.0.0", 9753)
HERE_ANY_PORT = Listen("127.0.0.1", 0)


# Who may ask.


def refusal(host: str | None, *, listen=HERE, method="GET", token=None, authorization=None, public=False):
    refused = Guard(listen, token, "gpu01").refuse(method, host, authorization, public=public)
    return refused.status if refused else None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:9753", "127.1.2.3", "[::1]:9753", "localhost."]
)
def test_any_loopback_name_reaches_this_machines_page(host):
    """Through a tunnel, too."""
    assert refusal(host) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.7",
        "gpu01",
        "[::1",
        "a b",
    ],
)
def test_a_rebound_host_name_gets_nothing(host):
    """As an attacker's DNS may point it here."""
    assert refusal(host) is HTTPStatus.FORBIDDEN


@pytest.mark.parametrize(
    ("host", "well"),
    [("10.1.2.3:9753", True), ("gpu01.cluster.local", True), ("GPU01:9753", True), ("evil.example", False)],
)
def test_other_machines_use_the_address_or_machine_name(host, well):
    """If other machines may ask."""
    assert refusal(host, listen=ANYWHERE, token=TOKEN, authorization=f"Bearer {TOKEN}") == (
        None if well else HTTPStatus.FORBIDDEN
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_nothing_can_be_done_but_reading(method):
    assert refusal("localhost", method=method) is HTTPStatus.METHOD_NOT_ALLOWED
    assert refusal("localhost", method="HEAD") is None


@settings(deadline=None)
@given(given=st.none() | st.text() | st.text().map(lambda text: f"Bearer {text}"))
@example(TOKEN)
@example(f"bearer {TOKEN}")
@example(f"Bearer {TOKEN} ")
@example("Bearer \ud800")
def test_only_the_token_opens(given):
    assert refusal("localhost", token=TOKEN, authorization=given) is HTTPStatus.UNAUTHORIZED
    assert refusal("localhost", token=TOKEN, authorization=given, public=True) is None
    assert refusal("localhost", token=TOKEN, authorization=f"Bearer {TOKEN}") is None


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("off", None),
        ("127.0.0.1:9753", Listen("127.0.0.1", 9753)),
        ("localhost:0", Listen("localhost", 0)),
        ("[::1]:80", Listen("::1", 80)),
        ("0.0.0.0:80", Listen("0.0.0.0", 80)),
    ],
)
def test_an_address_is_read_as_it_is_meant(text, listen):
    assert Listen.parse(text) == listen


@pytest.mark.parametrize("text", ["", "9753", ":9753", "host", "a:b", "::1:80", "[::x]:80", "localhost:65536", "a b:1"])
def test_what_is_no_address_is_a_bad_configuration(text):
    with pytest.raises(ConfigError, match=r"is not HOST:PORT.*nor \"off\""):
        load(None, {"root": "x", "http": text})


@pytest.mark.parametrize("text", ["0.0.0.0:9753", "[::]:9753", "192.168.0.7:9753", "gpu01:9753"])
def test_an_address_for_other_machines_wants_a_token(text):
    with pytest.raises(ConfigError, match="set http_token_file"):
        load(None, {"root": "x", "http": text})
    load(None, {"root": "x", "http": text, "http_token_file": "/etc/token"})
    load(None, {"root": "x", "http": "localhost:9753"})


def test_a_token_is_secret_only_in_its_file(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="could not read"):
        read_token(str(file))
    file.write_text(f"{TOKEN}\n")
    for mode, well in ((0o600, True), (0o640, True), (0o604, False), (0o606, False)):
        file.chmod(mode)
        if well:
            assert read_token(str(file)) == TOKEN
        else:
            with pytest.raises(ConfigError, match=rf"not kept secret \(mode {mode:04o}"):
                read_token(str(file))
    file.chmod(0o600)
    for bad in ("", "short", "two words and\na second line", "ü" * 20, "x" * 5000):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="openssl rand"):
            read_token(str(file))


def test_a_token_is_only_read_from_a_file(tmp_path):
    """A pipe would keep the daemon's loop waiting, at a later look too."""
    pipe, file = tmp_path / "pipe", tmp_path / "token"
    os.mkfifo(pipe, 0o600)
    for place in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"could not read .*(not a regular file|directory)"):
            read_token(str(place))
    file.write_text(TOKEN)
    file.chmod(0o600)
    now = 0.0
    token = TokenFile(str(file), lambda: now)
    pipe.replace(file)
    now = 5.0
    assert token() == TOKEN


# What they get.


def outage(now: float) -> StoreHealth:
    counts = RequestCounts(requests=70, second=6, second_won=4)
    down = {"waiting_workers": 1, "failing_since": now - 100, "next_try_at": now + 1000, "outages": 3}
    return StoreHealth(workers=2, counts=counts, **down)


@pytest.fixture(scope="module")
def served():
    with served_ring(slots=16) as served:
        served.service.failures.succeed()
        served.service.failures.fail(
            Failure('</td><script>alert("1")</script>\n\x1b[31m', "no such object", "missing", 2)
        )
        served.turn()
        count_retries(served.service.counters, {"http_503": 5, "crc32c": 2, "connect": 1})
        served.service.report(DaemonCounts(workers=2, worker_deaths=1), outage(time.monotonic()))
        yield served


@pytest.fixture(scope="module")
def status(served):
    return ring_status(served.name)


def ask(rings, *paths, method="GET", token=None, **headers):
    """What a server of these rings answers: (status, headers, text) for each path."""

    async def story():
        server = HttpServer(lambda: rings, Listen("127.0.0.1", 0), (lambda: token) if token else None)
        address = await server.start()
        answers = []
        try:
            async with aiohttp.ClientSession() as session:
                for path in paths:
                    async with session.request(method, address + path, headers=headers) as answer:
                        answers.append((answer.status, answer.headers, await answer.text()))
        finally:
            await server.stop()
        return answers

    return asyncio.run(story())


PATHS = ("", "status.json", "errors.json", "metrics", "healthz")


def test_every_answer_forbids_scripts_sniffing_and_caching(served):
    answers = [*ask([served.service], *PATHS, "nothing"), *ask([served.service], *PATHS, method="POST")]
    answers += ask([served.service], *PATHS, Host="evil.example")
    for _, headers, _ in answers:
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers
        assert "Access-Control-Allow-Origin" not in headers
    assert [status for status, _, _ in answers] == [200] * 5 + [404] + [405] * 5 + [403] * 5


def test_without_the_token_only_health_is_answered(served):
    """And nothing of the data."""
    answers = ask([served.service], *PATHS, token=TOKEN)
    assert [status for status, _, _ in answers] == [401] * 4 + [200]
    assert not any(word in text for _, _, text in answers for word in (served.name, "gs://", "script", TOKEN))
    assert [a[0] for a in ask([served.service], *PATHS, token=TOKEN, Authorization=f"Bearer {TOKEN}")] == [200] * 5


def test_the_policy_admits_the_pages_own_style_only(served):
    ((_, headers, page),) = ask([served.service], "")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in headers["Content-Security-Policy"] == POLICY
    assert "://" not in re.sub(r"gs://bucket/prefix", "", page)  # nothing comes from elsewhere


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


@settings(deadline=None, max_examples=50)
@given(name=st.text(max_size=60), reason=st.text(max_size=60))
@example(name='"><script>alert(1)</script>', reason="<img src=x onerror=alert(1)>")
@example(name="\x00\ud800\u202e]]><!--", reason="&lt;b&gt;")
def test_no_id_or_reason_becomes_markup(served, status, name, reason):
    """None of them is lost."""

    def view(pair_id: str, why: str) -> RingSnapshot:
        pair = FailedPair(pair_id, why, "corrupt", 1, 1, 0.0, 0.0)
        return RingSnapshot(served.name, status, "", FailedPairs(served.name, "0" * 16, "", 1, {"corrupt": 1}, [pair]))

    page = status_page([view(name, reason)], "gpu01")
    plain, hostile = Tags(status_page([view("x", "y")], "gpu01")), Tags(page)
    assert hostile.seen == plain.seen
    assert hostile.attributes == plain.attributes
    if name.isprintable() and name:
        assert name in hostile.texts
    page.encode()


def test_the_json_is_what_the_commands_print(served):
    shown, errors = (json.loads(text) for _, _, text in ask([served.service], "status.json", "errors.json"))
    expected = json.loads(json.dumps(ring_status(served.name).as_json()))
    for facts in (shown[served.name], expected):
        for moving in ("uptime_s", "heartbeat_age_s", "verdict"):  # which may tell since when the loop has not turned
            facts.pop(moving)
        for moving in ("failing_s", "next_try_s"):
            facts["store"].pop(moving)
    assert shown[served.name] == expected
    assert errors[served.name] == served.service.failed_pairs().as_json()


def samples(text: str) -> dict[str, float]:
    """By a metric's name and its labels but the ring."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rest = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "ring")
            found[f"{sample.name}[{rest}]" if rest else sample.name] = sample.value
    return found


def test_the_metrics_are_the_statuss_numbers_by_ring(served):
    ((_, headers, text),) = ask([served.service], "metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found, status = samples(text), ring_status(served.name)
    for attribute, (name, _) in metrics.GAUGES.items():
        if not attribute.endswith("_s"):
            assert found[f"ringfeed_{name}"] == getattr(status, attribute), name
    for counter in counters_of(RingCounts):
        if counter.word.kind is Kind.COUNTER and counter.label is None:
            assert found[f"ringfeed_{counter.family}_total"] == getattr(status, counter.field), counter
    assert found["ringfeed_failures_total[cause=missing]"] == 1
    assert found["ringfeed_state[state=serving]"] == 1
    assert found["ringfeed_state[state=failed]"] == 0
    assert found["process_open_fds"] > 0
    assert f'ring="{served.name}"' in text


def numbers(kind) -> set[str]:
    hints = get_type_hints(kind)
    return {field.name for field in dataclasses.fields(kind) if hints[field.name] in (int, float, bool)}


def test_every_status_number_is_a_metric_or_exempt():
    counted = {counter.field for declared in (RingCounts, DaemonCounts) for counter in counters_of(declared)}
    named = set(metrics.GAUGES) | counted | metrics.NO_METRICS
    assert numbers(RingStatus) == named, (
        "name a new number of the status in ringfeed/shm/counters.py, or in web/metrics.py: GAUGES, NO_METRICS"
    )
    assert numbers(StoreStatus) == set(metrics.STORE_GAUGES) | {counter.field for counter in counters_of(StoreCounts)}


def test_the_metrics_show_store_state_and_retry_causes(served):
    ((_, _, text),) = ask([served.service], "metrics")
    found = samples(text)
    assert found["ringfeed_store_waiting_workers"] == 1
    assert 100 <= found["ringfeed_store_failing_seconds"] < 1000
    assert 0 < found["ringfeed_store_next_try_seconds"] <= 1000
    assert found["ringfeed_store_outages_total"] == 3
    assert found["ringfeed_store_requests_total"] == 70
    assert found["ringfeed_store_second_requests_total"] == 6
    assert found["ringfeed_store_second_requests_won_total"] == 4
    causes = {
        cause: found[f"ringfeed_retries_total[cause={cause}]"] for cause in ring_status(served.name).retries_by_cause
    }
    assert causes == {"timeout": 0, "connection": 1, "body": 2, "429": 0, "5xx": 5, "other": 0}
    assert sum(causes.values()) == ring_status(served.name).fetch_retries
    assert "ringfeed_fetch_retries_total" not in found  # the same fact


def test_page_and_json_show_an_outage(served, status):
    """The page shows it in red, only while it lasts."""
    shown, page = (text for _, _, text in ask([served.service], "status.json", ""))
    store = json.loads(shown)[served.name]["store"]
    assert (store["waiting_workers"], store["outages"]) == (1, 3)
    assert json.loads(shown)[served.name]["retries_by_cause"]["5xx"] == 5
    said = r"is unreachable since \d\d:\d\d \(\d{3} s\); 1 of 2 workers wait, next try in \d+ s"
    assert re.search(rf'<p class="bad">the store {said}</p>', page)
    assert re.search(rf'<th scope="row">store</th><td>{said}</td>', page)
    assert "8 retries (1 connection, 2 body, 5 5xx)" in page
    well = dataclasses.replace(status, store=dataclasses.replace(status.store, waiting_workers=0, failing_s=0.0))
    assert "the store " not in status_page([dataclasses.replace(look(served.service), status=well)], "gpu01")


def test_promtool_accepts_the_metrics(served, status):
    if shutil.which("promtool") is None:
        pytest.skip("promtool of the Debian package prometheus is not installed")
    view = dataclasses.replace(
        look(served.service), status=dataclasses.replace(status, consumers=[LANE]), waited={("job", 0): 1.5}
    )
    work = Work(fetched=counted(FETCH_BOUNDS_S), decoded=counted(DECODE_BOUNDS_S))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.metrics_text([view], work), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def counted(bounds: tuple[float, ...]) -> Times:
    histogram = Histogram(bounds)
    for number in range(10):
        histogram.add(number / 10)
    return histogram.times


def test_the_workers_times_are_histograms(served):
    found = samples(metrics.metrics_text([look(served.service)], Work(fetched=counted(FETCH_BOUNDS_S))).decode())
    assert found["ringfeed_fetch_seconds_count"] == found["ringfeed_fetch_seconds_bucket[le=+Inf]"] == 10
    assert found["ringfeed_fetch_seconds_bucket[le=0.25]"] == 3
    assert found["ringfeed_fetch_seconds_sum"] == pytest.approx(4.5)
    assert found["ringfeed_decode_seconds_count"] == 0


def test_one_cause_bounds_a_ring(served, status):
    verdict = Verdict(Bound.STORE_LIMIT, "bound by the store's rate limit: 50 requests/s")
    view = dataclasses.replace(look(served.service), status=dataclasses.replace(status, verdict=verdict))
    found = samples(metrics.metrics_text([view]).decode())
    bound = {cause: found[f"ringfeed_bound_by[by={cause}]"] for cause in Bound}
    assert bound == dict.fromkeys(Bound, 0) | {Bound.STORE_LIMIT: 1}


def test_the_page_says_first_what_bounds_the_ring(served, status):
    well = dataclasses.replace(status, heartbeat_age_s=0.1, store=dataclasses.replace(status.store, failing_s=0.0))
    for by, tone in ((Bound.DECODING, "warn"), (Bound.STORE_DOWN, "bad"), (Bound.NOTHING, "ok")):
        sentence = f"bound by {by}: 1 worker has <pairs> to decode. Set workers = 3 for more"
        said = Verdict(by, sentence, waited=0.38, setting="workers", suggested=3)
        view = dataclasses.replace(look(served.service), status=dataclasses.replace(well, verdict=said))
        page = status_page([view], "gpu01")
        (card,) = re.findall(rf'<section class="card verdict {tone}">(.*?)</section>', page)
        assert card.startswith('<span class="share" ')
        assert ">38 %</span>" in card
        assert f"<strong>Bound by {by}</strong>" in card
        advice = "Set <code>workers = 3</code> for more."
        assert f"<p>1 worker has &lt;pairs&gt; to decode. {advice}</p>" in card
        assert page.index(card) < page.index('class="card w4"')


def test_what_all_rings_share_is_told_once(served):
    view = look(served.service)
    other = dataclasses.replace(view, name="another")
    text = metrics.metrics_text([view, other]).decode()
    for counter in (*counters_of(DaemonCounts), *counters_of(StoreCounts)):
        family = counter.family + ("_total" if counter.word.kind is Kind.COUNTER else "")
        assert len(re.findall(rf"(?m)^ringfeed_{family}[ {{]", text)) == 1, family


def test_no_two_families_tell_the_same_fact(served):
    """The sum of a family by cause is left to who asks."""
    found = samples(metrics.metrics_text([look(served.service)]).decode())
    names = {name.partition("[")[0] for name in found}
    assert {"ringfeed_failures_total", "ringfeed_retries_total"} <= names
    assert not names & {"ringfeed_failed_draws_total", "ringfeed_fetch_retries_total", "ringfeed_held_up"}


def test_the_metrics_have_release_and_readiness(served):
    served.service.report(DaemonCounts(workers=2), StoreHealth())  # else its loop has not turned for long
    found = samples(metrics.metrics_text([look(served.service)]).decode())
    assert found[f"ringfeed_build_info[layout={LAYOUT_VERSION},version={ringfeed.__version__}]"] == 1
    assert found["ringfeed_ready"] == 1
    assert samples(metrics.metrics_text([]).decode())["ringfeed_ready"] == 0


def test_waiting_is_counted_over_several_readers():
    with served_ring(slots=16) as served:
        lane = served.memory.lanes[0]
        with pytest.MonkeyPatch.context() as patch:
            alive = {0}
            patch.setattr(served.memory, "lane_lives", alive.__contains__)
            for nonce in (7, 8):
                alive.add(0)
                lane.write_request(request("anonymous-1-1"), nonce=nonce)
                served.turn()
                lane[Lane.WAITED_NS] = 2 * 10**9
                served.turn()
                served.service.report(DaemonCounts(workers=1), StoreHealth())
                alive.clear()
                served.turn()
        found = samples(metrics.metrics_text([look(served.service)]).decode())
    assert found["ringfeed_reader_waited_seconds_total[group=anonymous,rank=0]"] == 4.0


def request(group: str) -> Request:
    return Request(group, 0, 1, 4, False, Start.AUTO, (0, 0), True, 4711)


def test_anonymous_readers_create_no_time_series_each(served, status):
    consumer = dataclasses.replace(LANE, group="anonymous-4711-3")
    view = dataclasses.replace(look(served.service), status=dataclasses.replace(status, consumers=[consumer]))
    found = samples(metrics.metrics_text([view]).decode())
    assert found["ringfeed_reader_batches_total[group=anonymous,lane=3,rank=0]"] == 17


def reader_labels(served, status, *groups: str) -> set[str]:
    consumers = [dataclasses.replace(LANE, group=group) for group in groups]
    views = [
        dataclasses.replace(look(served.service), status=dataclasses.replace(status, consumers=[one]))
        for one in consumers
    ]
    return {name for view in views for name in samples(metrics.metrics_text([view]).decode()) if "group=" in name}


def test_unnamed_groups_create_no_time_series_a_run(served, status):
    def name(world_size: int, pid: int, **environ: str) -> str:
        ranks = Ranks(0, world_size)
        made = default_group(ranks, "1", environ)
        return made.replace(str(os.getpid()), str(pid)).replace(str(os.getppid()), str(pid))

    for world_size, environ in ((1, {}), (2, {}), (2, {"MASTER_PORT": "{}"}), (2, {"TORCHELASTIC_RUN_ID": "run{}"})):
        names = [name(world_size, n, **{k: v.format(n) for k, v in environ.items()}) for n in (4711, 815)]
        assert names[0] != names[1]
        assert reader_labels(served, status, *names) == reader_labels(served, status, names[0])


@given(group=st.text(min_size=1, max_size=40), cause=st.text(min_size=1, max_size=40))
@example(group='a\nringfeed_slots{ring="x"} 1', cause='"}')
@example(group="\ud800\u202e\x1b[2J", cause="\\")
def test_a_label_is_one_line_of_text(served, status, group, cause):
    one = dataclasses.replace(status, consumers=[dataclasses.replace(LANE, group=group)])
    view = look(served.service)
    failed = dataclasses.replace(view.failed, causes={cause: 1})
    text = metrics.metrics_text([dataclasses.replace(view, status=one, failed=failed)]).decode()
    plain = metrics.metrics_text([dataclasses.replace(view, status=dataclasses.replace(status, consumers=[LANE]))])
    assert text.count("\n") == plain.decode().count("\n")
    assert all(line.isprintable() for line in text.splitlines())
    assert len(samples(text)) > 50


LANE = LaneStatus(
    lane=3,
    pid=1,
    group="job",
    rank=0,
    world_size=1,
    batch_size=4,
    batches=17,
    taken=0,
    held_pairs=4,
    waited_s=1.5,
    waiting_s=0.0,
    on_lag="block",
    missed_pairs=0,
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"state": "failed"}, "is failed"),
        ({"state": "dead"}, "is dead"),
        ({"heartbeat_age_s": 7.4}, "has not turned for 7 s"),
    ],
)
def test_health_is_503_when_a_ring_failed(served, status, change, sentence):
    """Or if the daemon's loop does not turn."""
    changed = dataclasses.replace(status, **{"heartbeat_age_s": 0.1, **change})
    view = dataclasses.replace(look(served.service), status=changed)
    found = problems([look(served.service), view])[-1:] if change else problems([view])
    assert (found != []) == bool(change)
    assert sentence in "".join(found)


def test_health_before_the_rings_are_there_is_starting():
    assert ask([], "healthz")[0][0] == 503
    ((status, _, page),) = ask([], "")
    assert status == 200
    assert "is starting" in page


def test_an_unusable_address_is_a_sentence():
    """It is taken, or not one of this machine."""

    async def start(host: str, port: int) -> None:
        await HttpServer(list, Listen(host, port), None).start()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"127.0.0.1:{port} is taken.*--http off"):
            asyncio.run(start("127.0.0.1", port))
    with pytest.raises(StartError, match=r"could not serve the status page at 203\.0\.113\.9:80"):
        asyncio.run(start("203.0.113.9", 80))


def test_a_daemon_serves_its_page_while_it_runs(tmp_path):
    """And stops within its time."""
    ring = f"t{uuid.uuid4().hex[:10]}"
    with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--http", "127.0.0.1:0", ring=ring) as daemon:
        (said,) = (line for line in daemon.output.lines if line.startswith("status page: "))
        address = said.split()[-1]

        async def fetch(path: str) -> str:
            async with aiohttp.ClientSession() as session, session.get(address + path) as answer:
                return await answer.text()

        wait_until(lambda: asyncio.run(fetch("healthz")) == "ok\n")
        assert json.loads(asyncio.run(fetch("status.json")))[f"{ring}-train"]["state"] == "serving"
        assert f"{ring}-train: serving" in asyncio.run(fetch(""))


# Clients that mean no good.


def test_idle_connections_make_room_for_active_ones():
    async def story():
        server = HttpServer(list, HERE_ANY_PORT, None, most_connections=4)
        address = await server.start()
        port = int(address.rstrip("/").rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        try:
            async with aiohttp.ClientSession() as session, session.get(address + "healthz") as answer:
                assert answer.status == 503
            assert len(server._connections) <= 4
            assert await silent[0][0].read() == b""  # the oldest was closed
        finally:
            for _, writer in silent:
                writer.close()
            await server.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("sends", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET / HTTP/1.1\r\nA: "])
def test_a_request_that_never_ends_is_cut_off(sends, monkeypatch):
    monkeypatch.setattr(http_connections, "REQUEST_S", 0.3)

    async def story():
        server = HttpServer(list, HERE_ANY_PORT, None)
        address = await server.start()
        port = int(address.rstrip("/").rpartition(":")[2])
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sends)
            assert await reader.read() == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                while True:  # as fast as it can
                    writer.write(b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 4000 + b"\r\n")
                    await writer.drain()
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize(
    "sends",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"FOO / HTTP/7.x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["long", "length", "version", "tls"],
)
def test_an_invalid_request_leaves_no_log_line(sends, caplog):
    async def story():
        server = HttpServer(list, HERE_ANY_PORT, None)
        address = await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))
            writer.write(sends)
            return await reader.read()
        finally:
            await server.stop()

    assert asyncio.run(asyncio.wait_for(story(), 20)).startswith(b"HTTP/1.")
    assert caplog.records == []


async def until(condition):
    while not condition():  # noqa: ASYNC110  # what another process does, or the kernel
        await asyncio.sleep(0.01)


def test_a_connection_carries_one_request(monkeypatch):
    """And an answer that is not read ends."""
    monkeypatch.setattr(http_connections, "ANSWER_S", 0.3)

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"x" * (64 << 20))

    async def story():
        (listening,) = await http_connections.bind("127.0.0.1", 0)
        connections = http_connections.Connections(Server, 2)
        connections.listen([listening])
        with socket.create_connection(listening.getsockname()):
            await until(lambda: len(connections) == 1)
            (served,) = connections._open
            connections.answering(served)
            await until(lambda: not len(connections))  # it does not read
        await connections.close()

    asyncio.run(asyncio.wait_for(story(), 20))
    ((_, headers, _),) = ask([], "healthz")
    assert headers["Connection"] == "close"


FLOOD = """
import resource, socket, sys, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
port, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
clients = []
while time.monotonic() < end:
    while len(clients) < 2000:
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        clients.append(client)
    for client in clients[::50]:
        try:
            client.send(b"GET / HTTP/1.1\\r\\nX: y\\r\\n")
        except OSError:
            pass
    time.sleep(0.2)
"""


def test_two_thousand_connections_cost_the_daemon_nothing(tmp_path, ring):
    """A daemon that may open few files."""
    daemon = Daemon(
        str(write_folder(tmp_path, 8)), "--slots", "8", "--workers", "1", "--http", "127.0.0.1:0", ring=ring
    )
    daemon.command = ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *daemon.command]
    with daemon:
        (said,) = (line for line in daemon.output.lines if line.startswith("status page: "))
        port = int(said.rstrip("/\n").rpartition(":")[2])

        def files() -> int:
            return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))

        quiet = files()
        flood = trainer(FLOOD, port, 6)
        try:
            before = ring_status(f"{ring}-train")
            wait_until(lambda: files() > quiet + 4)
            with ringfeed.attach(f"{ring}-train", batch_size=2) as reader:
                ended = time.monotonic() + 4  # the daemon looks for its files each second
                while time.monotonic() < ended:
                    assert sum(len(batch) for batch in reader) == 8
                    assert files() <= quiet + 12  # a connection for each eighth file, and what an answer takes
        finally:
            flood.communicate(timeout=30)
        after = ring_status(f"{ring}-train")
        assert (after.daemon_pid, after.worker_deaths) == (before.daemon_pid, 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
            assert answer.read() == b"ok\n"
    assert "somebody removed" not in daemon.output.rest()
