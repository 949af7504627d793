"""What the embedded engine makes of every numbered statement about the real one.

A statement is held unless a table here says otherwise. ``python -m tests.statements`` writes the page,
``docs/engine-statements.md``; ``tests/docs/test_statements.py`` keeps this table, the page and the tests together.

Ids are those of ``tests/requirements.py``; the words of those that stand there are taken from there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tests.requirements import REQUIREMENTS

__all__ = ("PAGE", "STATEMENTS", "Statement", "citations", "page")

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "engine-statements.md"

SECTIONS: Final = (
    ("P", 101, 140, "The wire: what an engine must do"),
    ("T", 1, 19, "Triggers in general"),
    ("H", 1, 64, "HTTP: `iii-http`"),
    ("CR", 1, 15, "Cron: `iii-cron`"),
    ("Q", 1, 42, "Queues: `iii-queue`"),
    ("S", 1, 11, "Pub/sub: `iii-pubsub`"),
    ("X", 1, 22, "External HTTP functions: `iii-http-functions`"),
    ("C", 1, 10, "Common to built-in functions"),
    ("E", 1, 51, "The engine's own functions and trigger types"),
    ("ST", 1, 15, "State: `iii-state`"),
    ("UO", 1, 16, "Update operations"),
    ("SR", 1, 30, "Streams: `iii-stream`"),
    ("CF", 1, 15, "Configuration: `configuration`"),
    ("OB", 1, 21, "Observability: `iii-observability`"),
    ("RB", 1, 28, "Listeners and access control: `iii-worker-manager`"),
    ("BX", 1, 3, "Bridge and exec"),
    ("EC", 1, 12, "The configuration file"),
    ("CL", 1, 6, "The command line"),
)
"""Prefix, first and last number, heading."""

WORDS: Final = {
    "P-101": "the three paths of a listener, 404 elsewhere",
    "P-103": "blank text is ignored, undecodable text dropped, the connection stays",
    "P-104": "pings of every kind of socket are answered, JSON pings too",
    "P-107": "a new connection hears its worker id and a token first",
    "P-108": "registrations wait for the register call, and are replayed in order",
    "P-109": "who says no namespace in time lives in default, for good",
    "P-113": "blank namespaces are refused",
    "P-125": "results of unknown calls are ignored",
    "P-131": "the least set of engine functions",
    "P-133": "channels: one key, single use, a bounded buffer, an orderly end",
    "P-136": "HTTP functions are called with signature and headers, and answers mapped",
    "T-5": "unknown keys of a trigger's config are ignored, schemas only inform",
    "T-9": "a trigger id that is in use",
    "T-19": "who honours conditions; pub/sub does not",
    "H-1": "unknown keys of the worker's configuration",
    "H-2": "the file's block only seeds the configuration entry",
    "H-3": "a changed entry takes effect at once",
    "H-6": "any method is accepted, only the known ones are routed",
    "H-12": "one trigger id for two paths",
    "H-14": "one shape, other parameter names, another method",
    "H-17": "bodies are not limited, JSON ones are buffered",
    "H-26": "raw bytes of the body come through request_body",
    "H-28": "an HTTP function gets the whole request object",
    "H-34": "each middleware call has the request's time",
    "H-56": "listed origins are echoed, others get no header, all are served",
    "H-57": "allowed methods are joined; no credentials",
    "H-58": "status and headers by control messages before the body",
    "H-59": "the first binary frame sends the head",
    "H-60": "behind the head neither result, error nor time limit counts",
    "H-61": "a channel closed without body is an empty response",
    "H-62": "a result before the first body byte wins",
    "H-63": "a handler may return nothing and stream later",
    "H-64": "channel ids end with the head",
    "CR-9": "a job does not overlap itself; ticks that pass meanwhile are skipped",
    "CR-12": "the id of a job that is scheduled already",
    "CR-13": "unregistering stops a job at once, not its running call",
    "CR-14": "a false or failing condition drops the tick",
    "CR-15": "a lock around each tick",
    "Q-1": "the engine's own queue worker is opt-in and serves topics",
    "Q-2": "enqueued calls go to engine::queue::enqueue, of the standalone worker",
    "Q-3": "named queues of the engine's worker cannot be fed",
    "Q-4": "the two workers exclude each other",
    "Q-9": "baggage names the target, the trace is passed on",
    "Q-10": "a provider's error becomes enqueue_error",
    "Q-11": "without provider it is enqueue_error with advice",
    "Q-12": "an enqueue without id is not answered",
    "Q-13": "a void call is never answered; its handler sees id, metadata and caller",
    "Q-15": "impossible settings of a queue are refused",
    "Q-16": "the configuration entry adds and changes queues",
    "Q-17": "an undeclared queue is an error",
    "Q-18": "fifo is one job at a time, per queue or per group",
    "Q-19": "where a missing group value is noticed",
    "Q-20": "whether max_retries counts the first attempt",
    "Q-21": "back-off doubles, without limit or jitter",
    "Q-22": "whether a failed fifo job is overtaken",
    "Q-24": "the error text of a dead job",
    "Q-25": "a subscription without topic never fires",
    "Q-29": "delivery waits for a poll of 100 ms",
    "Q-32": "a message that nobody subscribes to is lost",
    "Q-35": "the last subscription's settings count",
    "Q-38": "what depth and consumer_count count",
    "Q-39": "which rows the list of dead letters has",
    "S-7": "a subscription without topic never fires",
    "X-1": "the body is the payload as sorted, compact JSON",
    "X-2": "the caller is named in object payloads",
    "X-3": "a fresh invocation id, no trace, no metadata",
    "X-4": "configured headers are added, not replaced",
    "X-5": "redirects are not followed",
    "X-6": "one time limit for the whole exchange",
    "X-7": "2xx without body is no result",
    "X-8": "2xx with JSON is the result",
    "X-9": "2xx that is no JSON is an error",
    "X-10": "1xx and 3xx succeed",
    "X-11": "an error in JSON keeps code and message",
    "X-12": "an error of another shape is http_error",
    "X-13": "other failures say status and reason",
    "X-14": "no answer is http_request_failed with the cause",
    "X-15": "a broken body is http_response_failed",
    "X-16": "URLs are checked at every call",
    "X-17": "what is refused at registration is dropped in silence",
    "X-18": "without the worker, too; its defaults refuse loopback",
    "X-19": "secrets are read once, at registration",
    "X-20": "listed and removed like any function",
    "X-21": "any trigger can target one",
    "X-22": "a variant for webhooks that nothing calls",
    "C-4": "where the caller's id is put into payloads",
    "C-9": "object keys come back sorted",
    "C-10": "units of times",
    "E-13": "a function is listed once its worker's namespace is known",
    "E-32": "all of the register call is optional",
    "E-33": "a blank namespace is INVALID_NAMESPACE",
    "E-35": "one live worker per name; the second is refused and closed",
    "E-36": "the first register call fixes the namespace",
    "E-37": "later ones update what they give",
    "E-38": "names of command lines are nothing special",
    "E-39": "buffer sizes of channels and their limits",
    "E-40": "the path of channels; the key is the permission",
    "E-41": "each end is taken once",
    "E-42": "kinds and order of frames; how ends close",
    "E-43": "channels belong to nobody; unused ones are swept",
    "E-46": "types and prefix of a guarded worker hold for durable triggers",
    "E-51": "both types call all at once and ignore results",
    "ST-9": "codes of failures",
    "ST-14": "triggers can be turned off",
    "UO-2": "paths of merge and append are a key or a list of keys",
    "UO-6": "limits of paths, and their order",
    "UO-8": "set replaces the root or a key of an object",
    "UO-9": "limits of merged values, and their order",
    "UO-10": "merge is shallow; on a root that is no object it does nothing",
    "UO-11": "increment: missing, number, anything else",
    "UO-12": "decrement mirrors it",
    "UO-13": "exact integers of 64 bits, signed and unsigned",
    "UO-14": "append to the root",
    "UO-15": "append along a path",
    "UO-16": "remove",
    "SR-4": "names of groups with colons lead astray",
    "SR-7": "codes of failures",
    "SR-14": "join and leave triggers have no filters",
    "SR-15": "they run one after another before the join goes on",
    "SR-16": "one unauthorized of a join handler refuses",
    "SR-17": "leave triggers run on leave, and for each subscription of a lost socket",
    "SR-23": "custom streams answer the sync of joins",
    "SR-24": "join: ask, record, sync",
    "SR-25": "who gets which event",
    "SR-26": "subscription ids are not echoed; two matches, two messages",
    "SR-27": "what cannot be read is ignored, pings are answered",
    "SR-28": "a slow subscriber loses the oldest events",
    "SR-29": "what the auth function gets",
    "SR-30": "auth never refuses",
    "CF-10": "entries expire after their last trigger",
    "CF-11": "one YAML file per entry",
    "CF-12": "the folder of entries is watched",
    "CF-13": "built-in workers have entries, seeded from the file; what is stored wins",
    "CF-14": "they follow their entry by a trigger of their own",
    "CF-15": "entries of another engine",
    "OB-3": "what is turned off is taken and discarded",
    "OB-5": "spans that have not ended are kept as pending",
    "OB-10": "without span store the trace functions fail",
    "OB-15": "what is kept for how long",
    "OB-18": "trace gathers for 300 ms and leaves out the engine's own",
    "OB-20": "the two types exist only when enabled",
    "OB-21": "spans are pushed into streams for a console",
    "RB-2": "settings of a listener",
    "RB-3": "without one there is a default; the first one's port is the engine's",
    "RB-4": "a port that is taken",
    "RB-11": "the star is the only wildcard",
    "RB-16": "a trigger of a type that is not allowed is dropped in silence",
    "RB-18": "registrations that are not allowed are dropped in silence",
    "RB-22": "the order of checks",
    "RB-26": "where a middleware is looked up",
    "BX-1": "a bridge to another engine",
    "BX-2": "its functions",
    "BX-3": "a runner of shell commands",
    "EC-1": "keys of the file",
    "EC-2": "keys of an entry",
    "EC-3": "variables are replaced in the text before YAML reads it",
    "EC-4": "repeated names are separate instances",
    "EC-5": "mandatory workers are added, others only run when listed",
    "EC-6": "without file a nearly empty one is made",
    "EC-7": "names of built-in workers; others are programs to start",
    "EC-8": "the order of boot",
    "EC-9": "the file is rewritten after the start",
    "EC-10": "the file is watched",
    "EC-11": "HTTP functions need their worker in the file",
    "EC-12": "environment variables",
    "CL-1": "options and subcommands of the program",
    "CL-2": "options of trigger",
    "CL-3": "how a payload is written",
    "CL-4": "what is printed, and exit codes",
    "CL-5": "how it connects",
    "CL-6": "help about a function",
}
"""Few words for what ``requirements.py`` does not name."""

DIFFERENT: Final = {
    "T-5": "a known key with a value of another type refuses the trigger",
    "T-9": "the earlier binding is replaced, by every provider",
    "H-1": "a warning; the engine goes on",
    "H-2": "the file wins over a stored entry and is never rewritten; `strict_upstream` lets the stored entry win",
    "H-3": "timeout, CORS and middleware take effect at once; host and port at the next start",
    "H-12": "the earlier route is replaced",
    "H-14": "both routes are served",
    "H-17": "a JSON body over 64 MiB is 413; other bodies are streamed without limit",
    "H-50": "one request more than the limit is answered 503",
    "CR-12": "the job gets the new schedule",
    "CR-15": "there is nothing to lock: one engine, one scheduler",
    "Q-1": "it is always there without a configuration file, and serves named queues as well",
    "Q-2": "the built-in worker registers the function",
    "Q-3": "they are fed by `TriggerAction.Enqueue`",
    "Q-4": "one worker does the work of both; a file that lists both is refused",
    "Q-18": "one at a time per group, other groups beside it, as the standalone worker",
    "Q-19": "at the enqueue, as the engine's worker, by the standalone worker's rule",
    "Q-22": "it is retried in place and not overtaken, as the standalone worker",
    "Q-24": "the error itself; upstream's text with `strict_upstream`",
    "Q-25": "the key `queue` is understood, as the standalone worker does; a subscription without topic warns",
    "Q-29": "at once",
    "Q-32": "it waits for the next subscription; lost only with `strict_upstream`",
    "Q-39": "one row per queue; twice with `strict_upstream`",
    "Q-40": "the error reads `code: message`; a debug text with `strict_upstream`",
    "S-9": "a re-used id moves to its new topic",
    "S-10": "only that subscription ends",
    "X-4": "a configured Host replaces ours, as two are no HTTP",
    "X-8": "a null result is left out of the answer, which means the same",
    "X-10": "3xx succeeds; a 101 is `http_request_failed`",
    "X-17": "silent on the wire, a warning in the log; a name with a private address is refused at the call",
    "C-9": "keys keep the order in which they were given",
    "E-30": "`latest_metrics` names the worker's own runtime",
    "ST-9": "`GET_ERROR`, `LIST_ERROR`, `LIST_GROUPS_ERROR` never occur: reads cannot fail",
    "SR-4": "names with colons are just names; as upstream with `strict_upstream`",
    "SR-7": "codes of reads never occur: they cannot fail",
    "SR-10": "the published schema is that of what is really sent",
    "SR-11": "refused; upstream's connection dies of it",
    "SR-13": "changes are told in their order",
    "SR-15": "leave triggers are not waited for",
    "SR-17": "as void calls",
    "SR-28": "nothing is lost silently: past 10,000 messages or 16 MiB the subscriber is closed with 1008",
    "CF-11": "in SQLite, with a data directory",
    "CF-13": "the file wins over what is stored; the stored value wins with `strict_upstream`",
    "CF-14": "the trigger's id is generated",
    "OB-1": "of a frame only the record that cannot be read is passed over",
    "OB-4": "a record that cannot be read is passed over",
    "OB-12": "the engine's own log lines are not among them",
    "OB-14": "nothing is aggregated, so `aggregated_metrics` is always left out",
    "OB-15": "alerts are not evaluated",
    "OB-17": "not for the engine's own lines, nor for what its own handlers log in its trace; the latter with "
    "`strict_upstream`",
    "OB-19": "the target is called in the trigger's namespace; in `default` with `strict_upstream`",
    "RB-2": "without host it is 127.0.0.1; a listener that others reach needs `rbac` or `--allow-remote`",
    "RB-4": "a port that cannot be bound ends the start with an error",
    "RB-23": "a function that a hook renamed is called by the worker's own id",
    "EC-4": "several listeners; of any other worker the first entry, with a warning for more",
    "EC-6": "without file every built-in worker runs, and no file is made",
    "EC-7": "a program is not started; a warning says how to start it",
    "EC-8": "in one fixed order",
    "EC-12": "`III_NAMESPACE_GRACE_MS` only",
    "CL-1": "`iii-anyio` has commands of its own; `iii-anyio dev` runs the engine",
    "CL-2": "the address is `--url` or `III_URL`, the time `--timeout` in seconds",
    "CL-3": "JSON is an argument of its own, or @FILE, or -; it is not combined with pairs",
    "CL-4": "an error is told in words; `--json` makes it JSON; see the exit codes of `iii-anyio --help`",
    "CL-5": "`III_URL` is honoured",
    "CL-6": "`iii-anyio list functions` shows a function's formats",
}
"""Deliberately different, and in what."""

LEFT_OUT: Final = {
    "X-22": "nothing upstream calls it",
    "CF-12": "entries are in a database, which nobody edits by hand",
    "CF-15": "an engine for development stands alone",
    "OB-21": "there is no console to show them",
    "BX-1": "an engine for development stands alone",
    "BX-2": "see BX-1",
    "BX-3": "programs are started by hand, or by `iii-anyio run`",
    "EC-9": "a file that people write is theirs",
    "EC-10": "start it again: it takes milliseconds",
}
"""Not there, and why."""


class Statement(NamedTuple):
    """One statement, and what becomes of it."""

    id: str
    words: str
    state: Literal["held", "different", "left out"]
    why: str


def _statement(id: str) -> Statement:
    words = WORDS[id] if id in WORDS else REQUIREMENTS[id][0]
    if id in LEFT_OUT:
        return Statement(id, words, "left out", LEFT_OUT[id])
    if id in DIFFERENT:
        return Statement(id, words, "different", DIFFERENT[id])
    return Statement(id, words, "held", "")


STATEMENTS: Final = {
    f"{prefix}-{number}": _statement(f"{prefix}-{number}")
    for prefix, first, last, _ in SECTIONS
    for number in range(first, last + 1)
}
"""By id, in the order of the page."""

_ID: Final = re.compile(r"\b([A-Z]{1,2})-(\d+)\b")
_RANGE: Final = re.compile(r"\b([A-Z]{1,2})-(\d+)(?: to |…)(?:\1-)?(\d+)\b")


def _ids(text: str) -> Iterator[str]:
    for prefix, number in _ID.findall(text):
        yield f"{prefix}-{number}"
    for prefix, first, last in _RANGE.findall(text):
        for number in range(int(first), int(last) + 1):
            yield f"{prefix}-{number}"


@cache
def citations() -> dict[str, list[str]]:
    """The tests that name an id, in their docstring, comments or parameters: ``folder/file::test``."""
    cited: dict[str, list[str]] = {}
    folder = ROOT / "tests"
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                test = f"{path.relative_to(folder).as_posix()}::{node.name}"
                for id in dict.fromkeys(_ids("\n".join(lines[start - 1 : node.end_lineno]))):
                    cited.setdefault(id, []).append(test)
    return cited


_OPENING: Final = """\
# The engine, statement by statement

What the embedded engine makes of every numbered statement about the real one: {held} held, {different} deliberately
different, {left_out} left out. What differs most is told in [The development engine](development-engine.md). Each row
names a test that shows it; there may be more. `python -m tests.statements` writes this page from `tests/statements.py`
and the tests."""


def page() -> str:
    """The whole page."""
    cited = citations()
    states = [statement.state for statement in STATEMENTS.values()]
    held, different, left_out = (states.count(state) for state in ("held", "different", "left out"))
    blocks = [_OPENING.format(held=held, different=different, left_out=left_out)]
    for prefix, first, last, heading in SECTIONS:
        blocks.append(f"\n## {heading}\n\n| id | statement | | shown by |\n|---|---|---|---|")
        for number in range(first, last + 1):
            statement = STATEMENTS[f"{prefix}-{number}"]
            state = statement.state if not statement.why else f"**{statement.state}**: {statement.why}"
            blocks.append(f"| {statement.id} | {statement.words} | {state} | {_shown(cited.get(statement.id, []))} |")
    return "\n".join(blocks) + "\n"


def _shown(tests: list[str]) -> str:
    """One of the tests; better one of what any engine must do."""
    tests = sorted(tests, key=lambda test: (not test.startswith("contract/"), test))
    return f"`{tests[0]}`" if tests else ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
