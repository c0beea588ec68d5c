"""The documentation: it is current, all it names exists, and its schemas fit the documents."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import json_util
from jsonschema import Draft202012Validator, FormatChecker

import clustering_training
from recommender.als.bson_encoder import RecommendationEncoder
from recommender.core.errors import RecommenderError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings, load_settings
from tests.generated_docs import generated, settings_rows
from tests.support import PROJECT, some_factors, write_tiny_city

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
BY_HAND = [page for page in PAGES if page.name not in {"faults.md", "settings.md"}]
NAME_REMOVED_SETTINGS = {"CHANGELOG.md", "migrating.md"}
SETTING = re.compile(
    r"\b(?:ALS|CLUSTERS|GATE|MONGO|RATING|REVIEWS|SPARK|TRAIN|LEASE)_[A-Z_]*[A-Z]\b"
)
PATH = re.compile(r"`((?:recommender|benchmarks|tests|docs)/[^`\s]*|[a-z]\w*\.py)`")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
JARGON = re.compile(
    r"foret[eo]l\w*|\bteach\w*|\btaught\b|\bbeliev\w*|taste map|\bheard\b|\breseed\w*|\bjudg\w+"
    r"|weights? of the mean|\bsay whether|\btells?\b|\bwhom\b|\bwhoever\b|\bsomebody\b|\bso many\b"
    r"|\bcannot be\b(?! \w)|slip of the pen|\bvisits\b|\blest\b",
    re.IGNORECASE,
)


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_of(page: Path) -> list[str]:
    """Return a page's fenced blocks, line by line, and its inline code."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", text_of(page))


def test_the_generated_parts_are_current(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-docs"):
        for file, text in generated().items():
            file.write_text(text, "utf-8")
    stale = [file.name for file, text in generated().items() if text_of(file) != text]
    assert stale == [], "run `make docs`"


def test_the_example_of_an_environment_file_holds_the_defaults(clean_environment: Path) -> None:
    example = text_of(PROJECT / ".env.example")
    lines = re.sub(r"^#(?=[A-Z_]+=)", "", example, flags=re.MULTILINE)
    (clean_environment / ".env").write_text(lines, "utf-8")
    assert load_settings() == Settings.of({})


def test_every_setting_that_a_page_names_exists() -> None:
    known = {"SPARK_CONF_DIR", *(name for name, *_ in settings_rows())}  # and one of Spark's own
    pages = [page for page in PAGES if page.name not in NAME_REMOVED_SETTINGS]
    named = {(page.name, name) for page in pages for name in SETTING.findall(text_of(page))}
    assert {(page, name) for page, name in named if name not in known} == set()


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for path, anchor in LINK.findall(text_of(page)):
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(f"{page.name}: {path}#{anchor}")
    assert broken == []


def test_every_path_that_a_page_names_exists() -> None:
    paths = {(page.name, path) for page in PAGES for path in PATH.findall(text_of(page))}
    assert len(paths) > 15
    assert {(page, path) for page, path in paths if not (PROJECT / path).exists()} == set()


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = PROJECT / "README.md"
    assert len(text_of(readme).splitlines()) <= 150
    linked = {(PROJECT / path).resolve() for path, _ in LINK.findall(text_of(readme)) if path}
    assert set(PAGES) - linked == {readme}


def exists(command: str) -> bool:
    """Return whether a command's make target, or its Python file or module and options, exist."""
    if made := re.match(r"make ([a-z]+)\b", command):
        makefile = text_of(PROJECT / "Makefile")
        return bool(re.search(rf"^{made[1]}:", makefile, re.MULTILINE))
    if not (run := re.search(r"\bpython (?:-m )?([\w./]+)", command)):
        return True
    module = PROJECT / run[1].removesuffix(".py").replace(".", "/")
    if run[1] == "pytest":
        return all((PROJECT / path).exists() for path in re.findall(r"tests/\S+", command))
    if not (module.with_suffix(".py").exists() or (module / "__main__.py").exists()):
        return False
    options = re.findall(r" (--[a-z-]+)", command)
    folders = ("*.py", "recommender/**/*.py", "benchmarks/*.py")
    code = "".join(text_of(path) for folder in folders for path in PROJECT.glob(folder))
    return all(f'"{option}"' in code for option in options)


def test_every_command_exists() -> None:
    commands = [(page.name, line.strip()) for page in PAGES for line in code_of(page)]
    assert sum(command.startswith(("make ", "python ")) for _, command in commands) > 20
    assert [command for command in commands if not exists(command[1])] == []


def test_the_readme_and_the_runbook_name_every_exit_code() -> None:
    codes = numbers_in_first_cells(PROJECT / "README.md")
    assert {str(error.exit_code) for error in RecommenderError.__subclasses__()} <= codes
    assert codes - numbers_in_first_cells(PROJECT / "docs/operations.md") == {"0"}


def numbers_in_first_cells(page: Path) -> set[str]:
    """Return the numbers in the first cells of a page's table rows."""
    cells = re.findall(r"^\|([^|`]*)", text_of(page), re.MULTILINE)
    return set(re.findall(r"\d+", " ".join(cells)))


def test_pages_and_code_use_the_terms_of_the_field() -> None:
    code = [file for kind in ("py", "html", "js") for file in PROJECT.glob(f"[!.v]*/**/*.{kind}")]
    words = {
        (page.name, word)
        for page in {*BY_HAND, *PROJECT.glob("*.py"), *code} - {Path(__file__)}
        for word in JARGON.findall(re.sub(r"`[^`\n]*`", "", text_of(page)))
    }
    assert words == set()


def schema_of(collection: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(text_of(PROJECT / f"docs/schemas/{collection}.schema.json"))
    Draft202012Validator.check_schema(schema)
    return schema


def as_json(document: Document) -> Any:
    """Return a document in relaxed Extended JSON, as ``mongoexport`` writes it."""
    return json.loads(json_util.dumps(document, json_options=json_util.RELAXED_JSON_OPTIONS))


def recommendations() -> list[Document]:
    """Return documents of ``Recommendations`` as the training encodes them."""
    encoder = RecommendationEncoder(["a", 5], "run", with_ratings=True)
    items, scores = np.array([[1, 0]], dtype=np.int32), np.array([[0.5, 0.25]], dtype=np.float32)
    raw = encoder.encode(
        np.array([0], dtype=np.int32), ["u"], items, scores, np.array([[4.5, 4.0]])
    )
    return [dict(document) for document in raw]


def test_the_schemas_and_the_reader_fit_the_published_documents(
    run_here: Callable[..., int], db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    db["Metadata"].insert_one(some_factors("an earlier training"))
    assert run_here(clustering_training.main, CLUSTERS_K="4") == 0
    db["Recommendations"].insert_many(recommendations())
    for collection in ("Recommendations", "Clusters", "Metadata", "TrainingRuns"):
        check_schema(collection, [as_json(document) for document in db[collection].find()])
    assert db["Metadata"].count_documents({}) == len(schema_of("Metadata")["oneOf"])
    check_reader(db)


def check_schema(collection: str, documents: list[Any]) -> None:
    """Check that a schema accepts documents as they are, and not with a required field broken."""
    schema = schema_of(collection)
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    assert documents
    for document in documents:
        validator.validate(document)
        own = schema["$defs"][document["_id"]] if collection == "Metadata" else schema
        assert set(document) <= set(own["properties"]), "describe the new fields in the schema"
        for field in own["required"]:
            without = {key: value for key, value in document.items() if key != field}
            assert not validator.is_valid(without), (collection, field)
            assert not validator.is_valid({**document, field: [None]}), (collection, field)


def check_reader(db: MongoDatabase) -> None:
    """Check that the Python of the page for readers finds the clusters of ``reader_checks``."""
    page = text_of(PROJECT / "docs/reading-the-collections.md")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    checks = (db["Metadata"].find_one({"_id": "reader_checks"}) or {})["users"]
    assert len(checks) > 2
    for check in checks:
        names = {"db": db, "np": np, "rated": {r["gmap_id"]: r["rating"] for r in check["ratings"]}}
        exec(code, names)
        assert names["cluster_id"] == check["cluster_id"]
