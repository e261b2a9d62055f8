"""The Dockerfile cannot be built without a container engine. It can be read: it keeps to what we want of it, and it is
the same as `contents.toml`, of which tests/peers/test_image.py builds and runs an image.
"""

import json
import re
import shlex

import pytest

from deploy.image.build import config, default_name
from deploy.image.contents import HERE, OURS, REPOSITORY, contents

FILE = HERE / "Dockerfile"


def instructions():
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stages():
    """What comes before the first FROM, then each stage with its FROM."""
    found = [[]]
    for name, words in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, " ".join(words.split())))
    return found


def of(stage, name):
    return [words for each, words in stage if each == name]


def test_each_stage_stands_on_a_digest_that_somebody_chose():
    before, *found = stages()
    arguments = dict(each.partition("=")[::2] for each in of(before, "ARG"))
    bases = [of(stage, "FROM")[0].split(" AS ")[0] for stage in found]
    assert bases == ["${GO}@${GO_DIGEST}", "${BASE}@${BASE_DIGEST}", "scratch"]
    assert {arguments["GO_DIGEST"], arguments["BASE_DIGEST"]} == {""}, "a digest that we did not see would be a lie"
    for image in (arguments["GO"], arguments["BASE"]):
        assert re.fullmatch(r"[a-z]+:[a-z0-9.-]+", image), "no registry, and a tag"
        assert not image.endswith("latest")


@pytest.mark.parametrize("page", [FILE, REPOSITORY / "docs/migrate-flannel.md"], ids=lambda page: page.name)
def test_wherever_an_image_is_named_it_is_the_one_that_the_other_build_makes(page):
    assert set(re.findall(r"[a-z/]*headcni:[0-9][\w.]*", page.read_text())) == {default_name()}


def test_it_knows_only_what_a_builder_understands():
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "LABEL", "HEALTHCHECK", "ENTRYPOINT"}
    assert {name for name, _ in instructions()} == known


def test_every_argument_is_declared_where_it_is_used():
    for stage in stages()[1:]:
        declared = {each.partition("=")[0] for each in of(stage, "ARG")} | {"GO", "GO_DIGEST", "BASE", "BASE_DIGEST"}
        assert {name for _, words in stage for name in re.findall(r"\$\{(\w+)\}", words)} <= declared


def test_what_it_copies_is_there():
    for stage in stages()[1:]:
        for words in of(stage, "COPY"):
            if not words.startswith("--from="):
                *sources, _ = words.split()
                assert [each for each in sources if not (REPOSITORY / each).exists()] == []
    copied = {source for words in of(stages()[2], "COPY") for source in words.split()[:-1]}
    assert copied >= {*OURS, "deploy", "constraints.txt", "pyproject.toml"}


def test_a_stage_is_copied_from_only_after_it():
    known = set()
    for stage in stages()[1:]:
        assert {words.split()[0].partition("=")[2] for words in of(stage, "COPY") if "--from=" in words} <= known
        known |= {words.split(" AS ")[1] for words in of(stage, "FROM") if " AS " in words}


def test_the_layers_are_those_of_the_other_build():
    assert of(stages()[3], "COPY") == [f"--from=builder /image/{layer} /" for layer in ("base", "dependencies", "ours")]
    (command,) = [words for words in of(stages()[2], "RUN") if "deploy.image.build" in words]
    assert command.split()[-1] == "/image"


def test_what_the_image_says_of_itself_is_the_same():
    final, wanted = stages()[3], config()
    assert [json.loads(words) for words in of(final, "ENTRYPOINT")] == [wanted["Entrypoint"]]
    assert of(final, "ENV") == wanted["Env"]
    assert dict(each.split("=", 1) for each in shlex.split(of(final, "LABEL")[0])) == wanted["Labels"]
    (check,) = of(final, "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert ["CMD", *json.loads(command)] == wanted["Healthcheck"]["Test"]
    seconds = {name: int(value) * 10**9 for name, value in re.findall(r"--([a-z-]+)=(\d+)s", options)}
    named = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
    assert {named[name]: value for name, value in seconds.items()} == {
        name: wanted["Healthcheck"][name] for name in named.values()
    }


def test_the_standard_plugin_is_the_same():
    assert f"PLUGINS_VERSION={contents().loopback}" in of(stages()[1], "ARG")


@pytest.mark.parametrize("left", ["sh -c", "curl", "wget", "chmod 777", "sudo", "latest"])
def test_it_has_nothing_of(left):
    assert left not in " ".join(words for _, words in instructions())
