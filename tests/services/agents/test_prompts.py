"""What the model is told: shared prefixes and bounded influence of tenants."""

from __future__ import annotations

from falaj.services.agents import prompts

LANGUAGES: tuple[prompts.Language, ...] = ("ar", "en", "fr")


def text(messages: list[prompts.Message]) -> str:
    return "".join(message["content"] for message in messages)


def test_judging_and_answering_share_everything_up_to_the_task() -> None:
    judged = text(prompts.judge("", "Ports", "The port is 7440.", "Which port?"))
    for language in LANGUAGES:
        answered = text(prompts.answer("", "Ports", "The port is 7440.", "Which port?", language))
        shared = judged[: judged.index("Question: Which port?\n\n") + len("Question: Which port?\n\n")]
        assert answered.startswith(shared), "the engine would read the passage twice"


def test_a_tenants_instructions_are_added_behind_the_rules_not_instead() -> None:
    system = prompts.judge("Be brief.", "", "x", "y")[0]["content"]
    assert system.startswith(prompts.judge("", "", "x", "y")[0]["content"])
    assert system.endswith("Be brief.")


def test_every_language_refuses_in_its_own_words() -> None:
    refusals = [prompts.refusal(language) for language in LANGUAGES]
    assert len(set(refusals)) == len(LANGUAGES)
    assert any("\u0600" <= letter <= "\u06ff" for letter in prompts.refusal("ar"))
