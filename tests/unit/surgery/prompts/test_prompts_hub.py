"""Prompts of Hugging Face datasets: from the cache while offline, from a hub, and one line for every refusal."""

import http.server
import itertools
import json
import threading

import pytest

from surgery.console.errors import PromptFileError
from surgery.prompts import load_pairs, load_prompts, load_set
from surgery.prompts.hub import row_range

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: behaviors
  data_files:
  - split: harmful
    path: "data/harmful-*.csv"
  - split: benign
    path: [data/benign.csv]
- config_name: comparison
  data_files:
  - split: test
    path: data/comparison.csv
---
A dataset.
"""
FILES = {
    "README.md": CARD,
    "data/harmful-behaviors.csv": "Index,Goal,Behavior,Category\n0,Steal it,b,Theft\n1,Burn it,b,Arson\n",
    "data/benign.csv": "Index,Goal,Behavior,Category\n0,Buy it,b,Theft\n1,Cool it,b,Arson\n",
    "data/comparison.csv": "prompt\nWhat now?\n",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_XET_CACHE", str(tmp_path / "xet"))
    return tmp_path


@pytest.fixture
def cached(hub):
    """Puts a dataset into the cache, as a download would."""

    def cached(name="team/set", files=FILES):
        folder = hub / f"datasets--{name.replace('/', '--')}"
        for file, text in files.items():
            path = folder / "snapshots" / COMMIT / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)

    return cached


def fault(load, source, *arguments):
    with pytest.raises(PromptFileError) as caught:
        load(source, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_splits_that_a_card_declares_make_pairs(cached):
    cached()
    pairs = load_pairs("hf:team/set:behaviors")
    assert [(p.id, p.harmful, p.safe) for p in pairs] == [("0", "Steal it", "Buy it"), ("1", "Burn it", "Cool it")]
    assert pairs.revision == COMMIT and set(dict(pairs.files)) == {"harmful-behaviors.csv", "benign.csv"}
    assert load_set("hf:team/set:behaviors").are_pairs


def test_prompts_take_the_split_of_their_role_or_the_one_named(cached):
    cached()
    assert [p.prompt for p in load_prompts("hf:team/set:behaviors", "harmful")] == ["Steal it", "Burn it"]
    assert [p.prompt for p in load_prompts("hf:team/set:behaviors", "safe")] == ["Buy it", "Cool it"]
    assert [p.prompt for p in load_prompts("hf:team/set:benign", "harmful")] == ["Buy it", "Cool it"]
    assert [p.prompt for p in load_prompts("hf:team/set:comparison:test")] == ["What now?"]
    assert [p.prompt for p in load_prompts(f"hf:team/set@{COMMIT}:comparison")] == ["What now?"]


NUMBERS = {"train.csv": "prompt\n" + "".join(f"Say {n}.\n" for n in range(1, 11))}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", range(1, 11)),
        (":train", range(1, 11)),
        (":train[:4]", range(1, 5)),
        ("[4:]", range(5, 11)),
        (":train[-2:]", range(9, 11)),
        ("[2:-7]", range(3, 4)),
        (":train[:50%]", range(1, 6)),
        (":train[50%:]", range(6, 11)),
        (":train[:]", range(1, 11)),
    ],
)
def test_a_slice_of_a_split_is_that_of_the_datasets_library(cached, rows, expected):
    cached(files=NUMBERS)
    prompts = load_prompts(f"hf:team/set{rows}")
    assert [(p.id, p.prompt) for p in prompts] == [(str(n + 1), f"Say {n}.") for n in expected]  # by line
    assert prompts.left_out == 10 - len(expected)


def test_slices_that_do_not_overlap_hold_other_prompts_by_name_and_text(cached):
    cached(files=NUMBERS)
    first, second = (load_prompts(f"hf:team/set:train{rows}") for rows in ("[:6]", "[6:]"))
    assert not {p.id for p in first} & {p.id for p in second} and first.files == second.files


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[:11]", "expected bounds within its 10 rows, found [:11]"),
        ("[-11:]", "expected bounds within its 10 rows, found [-11:]"),
        ("[:101%]", "expected bounds within its 10 rows, found [:101%]"),
        ("[4:4]", "[4:4] takes none of its 10 rows"),
        ("[4]", "expected rows as [START:STOP], e.g. train[:400] or train[80%:], found [4]"),
        ("[2:50%]", "expected both bounds in per cent or neither, found [2:50%]"),
        (":train[:4]+train[2:]", "takes rows of train twice"),
        (":train+", "expected hf:ORG/NAME"),
        ("[]", "expected rows as [START:STOP]"),
        ("[train[:4]", "expected hf:ORG/NAME"),
        ("[train][:4]", "expected hf:ORG/NAME"),
        (":train[:4]x", "expected hf:ORG/NAME"),
        (":a:b:c", "expected hf:ORG/NAME"),
    ],
)
def test_a_slice_that_cannot_be_taken_is_one_line(cached, rows, message):
    cached(files=NUMBERS)
    assert message in fault(load_prompts, f"hf:team/set{rows}")


@pytest.mark.parametrize("n_rows", [5, 10, 11])
def test_bounds_are_rounded_as_the_datasets_library_does(n_rows):
    from datasets.arrow_reader import ReadInstruction

    shares = ["", *(f"{n}%" for n in (-70, -50, -25, 0, 5, 33, 50, 75, 100))]
    numbers = ["", "0", "1", "-1", "0_1"]
    n_compared = 0
    for start, stop in [*itertools.product(shares, shares), *itertools.product(numbers, numbers)]:
        rows = f"{start}:{stop}"
        try:
            found = row_range("it", rows, n_rows)
        except PromptFileError:
            continue  # nothing taken
        (wanted,) = ReadInstruction.from_spec(f"train[{rows}]").to_absolute({"train": n_rows})
        assert (found.start, found.stop) == (wanted.from_, wanted.to), rows
        n_compared += 1
    assert n_compared > 20


SPLITS = {
    "data/train.csv": "prompt\nSay 1.\nSay 2.\nSay 3.\n",
    "data/validation.csv": "prompt\nSay 4.\nSay 5.\n",
    "data/test.csv": "prompt\nSay 6.\n",
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[train]", "123"),
        ("[train[:2]]", "12"),
        ("[train+test]", "1236"),
        (":train+test", "1236"),
        (":train + test", "1236"),
        (":default:train+test", "1236"),
        (":default[train+test]", "1236"),
        (":default[train]", "123"),
        (":train[:2]+validation", "1245"),
        ("[train[:2]+validation[-50%:]]", "125"),
        (":train[2:]+train[:1]", "31"),
        (":all", "612345"),
        (f"@{COMMIT}[test]", "6"),
    ],
)
def test_splits_are_named_and_united_as_with_the_datasets_library(cached, names, expected):
    cached(files=SPLITS)
    prompts = load_prompts(f"hf:team/set{names}", "harmful")
    assert "".join(p.prompt[4] for p in prompts) == expected
    assert len({p.id for p in prompts}) == len(prompts)


def test_rows_of_united_splits_are_named_by_split_so_that_part_of_them_keeps_its_names(cached):
    cached(files=SPLITS)
    assert [p.id for p in load_prompts("hf:team/set:train[1:]+test")] == ["train:3", "train:4", "test:2"]
    some, rest = load_prompts("hf:team/set:train[:2]+train[2:]"), load_prompts("hf:team/set:train[:2]")
    assert [p.id for p in some][:2] == [p.id for p in rest]
    united = load_prompts("hf:team/set:train[1:]+test")
    assert united.left_out == 1 and set(dict(united.files)) == {"train.csv", "test.csv"}


def test_a_configuration_whose_name_reads_like_splits_is_the_configuration(cached):
    cached(files={"c++/train.csv": "prompt\nSay 1.\n", "train+test/x.csv": "prompt\nSay 2.\n"})
    assert [p.prompt for p in load_prompts("hf:team/set:c++")] == ["Say 1."]
    assert [p.prompt for p in load_prompts("hf:team/set:c++:train[:1]")] == ["Say 1."]
    assert [p.prompt for p in load_prompts("hf:team/set:train+test[:1]")] == ["Say 2."]


def test_an_open_choice_is_refused_with_what_there_is_however_it_is_written(cached):
    cached(files=SPLITS)
    for names in ("", "[:2]", ":default", "[trian]", ":train+trian", "[trian[:2]]", ":default[trian]"):
        assert "test, train, validation" in fault(load_prompts, f"hf:team/set{names}", "harmful"), names
    cached("team/two", FILES)
    for names in ("", "[train]", "[:2]", ":train+test", ":behavior[harmful]"):
        said = fault(load_prompts, f"hf:team/two{names}", "harmful")
        assert "behaviors: harmful, benign; comparison: test" in said, names


def test_the_configuration_that_a_card_calls_the_default_is_it(cached):
    cached(files={**FILES, "README.md": CARD.replace("comparison\n", "comparison\n  default: true\n", 1)})
    assert [p.prompt for p in load_prompts("hf:team/set")] == ["What now?"]


def test_folders_named_as_splits_are_splits_and_files_of_one_name_are_not_joined(cached):
    cached(
        files={
            "default/train/0000.csv": "prompt\nSay 1.\n",
            "default/train/0001.csv": "prompt\nSay 2.\n",
            "default/test/0000.csv": "prompt\nSay 3.\n",
        }
    )
    assert [p.prompt for p in load_prompts("hf:team/set:train")] == ["Say 1.", "Say 2."]
    united = load_prompts("hf:team/set:train+test")
    assert [p.prompt for p in united] == ["Say 1.", "Say 2.", "Say 3."]
    assert len(dict(united.files)) == 3
    assert "test, train" in fault(load_prompts, "hf:team/set")
    cached("team/top", {"train/0000.csv": "prompt\nSay 1.\n", "test/0000.csv": "prompt\nSay 3.\n"})
    assert [p.prompt for p in load_prompts("hf:team/top[train+test]")] == ["Say 1.", "Say 3."]
    cached("team/deep", {"data/a/x.csv": "prompt\nSay 1.\n", "data/b/x.csv": "prompt\nSay 3.\n"})
    assert "a/x, b/x" in fault(load_prompts, "hf:team/deep")


def test_the_only_table_of_a_dataset_is_its_train_split(cached):
    cached(files={"prompts.csv": "prompt\nSay 1.\nSay 2.\n"})
    for names in (":train", "[train]", "[train[:2]]"):
        assert [p.prompt for p in load_prompts(f"hf:team/set{names}")] == ["Say 1.", "Say 2."]
    assert "expected one of its splits (of what is in the cache" in fault(load_prompts, "hf:team/set:test")


def test_what_is_left_open_or_unknown_is_listed(cached):
    cached()
    assert "behaviors: harmful, benign; comparison: test" in fault(load_pairs, "hf:team/set")
    assert "benign, harmful" in fault(load_prompts, "hf:team/set:behaviors")
    assert "behaviors: harmful, benign" in fault(load_prompts, "hf:team/set:train")
    assert "benign, harmful" in fault(load_prompts, "hf:team/set:behaviors:train")


def test_without_a_declaration_the_names_of_the_files_say_the_splits(cached):
    shard = '{"prompt": "What now?"}\n{"prompt": "What then?"}\n'
    cached(
        files={
            "data/train-00000-of-00002.jsonl": shard,
            "data/train-00001-of-00002.jsonl": shard,
            "data/test-00000-of-00001.jsonl": shard,
            "extra/test.csv": "prompt\nWhy?\n",
            "dataset_infos.json": "{}",
        }
    )
    train = load_prompts("hf:team/set:default:train")
    assert [p.id for p in train] == ["1", "2", "3", "4"] and len(train.files) == 2
    assert len(load_prompts("hf:team/set:extra")) == 1
    assert "default: test, train; extra: test" in fault(load_prompts, "hf:team/set:test")


def test_half_of_a_split_in_the_cache_is_not_the_split(cached):
    cached(files={"data/train-00001-of-00002.jsonl": '{"prompt": "What then?"}'})
    assert "not in the cache: data/train-00000-of-00002.jsonl" in fault(load_prompts, "hf:team/set")


def test_offline_faults_say_so(hub, cached):
    assert "not in the cache, and HF_HUB_OFFLINE is set" in fault(load_prompts, "hf:team/none")
    assert "expected hf:ORG/NAME" in fault(load_prompts, "hf:")
    assert "expected hf:ORG/NAME" in fault(load_prompts, "hf:a/b/c")
    cached("team/half", {"README.md": CARD})
    assert "has no CSV, JSON or Parquet files" in fault(load_prompts, "hf:team/half:comparison")


# ---------------------------------------------------------------- a hub of our own


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs; datasets other than team/set are refused."""

    def do_GET(self):
        path = self.path.split("?")[0]
        if "team/gated" in path:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if not path.startswith(("/api/datasets/team/set/", "/datasets/team/set/")):
            return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"})
        if "/revision/" in path and not path.endswith(("main", COMMIT)):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(FILES[name])} for name in FILES]
            record = tree if "/tree/" in path else {"id": "team/set", "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(record).encode())
        name = path.split(f"/resolve/{COMMIT}/")[1]
        return self.answer(200, FILES[name].encode(), {"X-Repo-Commit": COMMIT, "ETag": f'"{name.replace("/", "-")}"'})

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        self.server.asked.append(self.path)
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def online(hub, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()


def test_a_dataset_is_downloaded_and_only_the_files_of_its_split(online, monkeypatch):
    assert [p.harmful for p in load_pairs("hf:team/set:behaviors")] == ["Steal it", "Burn it"]
    assert not any("comparison.csv" in path for path in online.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(load_pairs("hf:team/set:behaviors")) == 2  # from the cache
    assert "of what is in the cache: HF_HUB_OFFLINE is set" in fault(load_prompts, "hf:team/set:comparison")


def test_a_hub_that_refuses_is_one_line_with_what_to_do(online):
    assert "access is gated; accept its terms" in fault(load_prompts, "hf:team/gated")
    assert "no such public dataset" in fault(load_prompts, "hf:team/other")
    assert "has no revision 'v9'" in fault(load_prompts, "hf:team/set@v9")
    online.shutdown()
    online.server_close()
    assert "cannot be reached" in fault(load_prompts, "hf:team/unseen")


def test_a_share_that_rounds_to_no_row_is_counted_from_its_own_end():
    assert row_range("it", ":-1%", 10) == range(10)  # where the datasets library takes none, for it reads :-0 as :0
    with pytest.raises(PromptFileError, match="takes none"):
        row_range("it", "-1%:", 10)
