"""A grounded answer: retrieve, judge passage by passage, answer from the one that states it, cite it, or refuse.

The passages are read best first. For each, the model says whether the passage states the answer (one token, whose
probability is the verdict); from the one that does it best, it writes the answer. None does: the agent refuses. The
judgement is what keeps a small model from inventing; docs/decisions/0009-grounded-answers.md has the measurements.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import orjson

from falaj.errors import FalajError, Invalid, LimitExceeded, NotFound, Transient, nearest
from falaj.region.resource import Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.agents import prompts
from falaj.services.agents.grounding import invented_figures, quote
from falaj.services.agents.kinds import AgentSpec
from falaj.services.knowledge.kinds import endpoint_key
from falaj.services.knowledge.language import detect
from falaj.services.knowledge.retrieval import QUERY_CHARACTERS_MAX, Passage, Retriever
from falaj.services.models.gateway import Gateway
from falaj.trust.identity import Principal

#: Enough of the first token's alternatives to weigh every spelling of yes and no.
_TOP_TOKENS = 20
_YES = ("yes", "نعم", "oui")
_NO = ("no", "لا", "non")
#: Behind a sentence's end and the white space after it; a full stop inside 7.5 or a.b is none.
_SENTENCE = re.compile(r"(?<=[.!?؟]\s)|(?<=\n)")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a passage must reach to be answered from; measured on the development questions of the handbook.

    Attributes:
        similarity_min: cosine of question and passage under which all passages are about something else, and no model
            is asked. It belongs to the embedding model: multilingual-e5-small keeps even strangers above 0.7.
        verdict_min: probability of "yes" from which a passage states the answer.
        verdict_sure: probability from which the passages ranked below are not looked at any more.
        rank_weight: how much the retrieval's score, 0 to 1, counts beside the verdict when passages compete.
    """

    similarity_min: float = 0.79
    verdict_min: float = 0.58
    verdict_sure: float = 0.7
    rank_weight: float = 0.1


@dataclass(frozen=True, slots=True)
class Citation:
    """Where an answer stands: ``quote`` is ``text[start:end]`` of the document's text."""

    document: str
    heading: str
    quote: str
    start: int
    end: int


@dataclass(slots=True)
class Usage:
    """Tokens that all calls for one answer took together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, usage: dict[str, Any]) -> None:
        """Count the ``usage`` object of one OpenAI response."""
        self.prompt_tokens += int(usage.get("prompt_tokens", 0))
        self.completion_tokens += int(usage.get("completion_tokens", 0))

    def as_dict(self) -> dict[str, int]:
        """In the shape of the OpenAI wire."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(slots=True)
class Answer:
    """What an agent says, and on what grounds. ``seconds`` is wall-clock time from question to last word."""

    answer: str
    citations: list[Citation]
    refused: bool
    model: str
    site: str
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as the REST wire and ``falaj ask --json`` show them."""
        return {
            "answer": self.answer,
            "citations": [asdict(citation) for citation in self.citations],
            "refused": self.refused,
            "model": self.model,
            "site": self.site,
            "usage": self.usage.as_dict(),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """What one question needs on its way: who asks which agent, in which language, of which model."""

    principal: Principal
    spec: AgentSpec
    endpoint: Key
    question: str
    language: prompts.Language
    usage: Usage


class Answerer:
    """Answers questions put to agents. Safe for any number of concurrent questions; it keeps no state of its own."""

    def __init__(self, snapshot: Snapshot, retriever: Retriever, gateway: Gateway, bar: Bar | None = None) -> None:
        self._snapshot = snapshot
        self._retriever = retriever
        self._gateway = gateway
        self._bar = bar or Bar()

    async def ask(self, principal: Principal, project: str, agent: str, question: str) -> Answer:
        """The whole answer at once; see :meth:`stream` for the errors."""
        result: Answer | None = None
        async for piece in self.stream(principal, project, agent, question):
            if isinstance(piece, Answer):
                result = piece
        assert result is not None  # a stream ends with its answer or with an error
        return result

    async def stream(
        self, principal: Principal, project: str, agent: str, question: str
    ) -> AsyncIterator[str | Answer]:
        """The answer's text as it is written, then the :class:`Answer`.

        Raises:
            NotFound: no such agent in the project. Invalid: an empty question. LimitExceeded: the question is too long.
            Transient: the model or the knowledge base is not ready yet.
        """
        started = time.monotonic()
        run = self._prepare(principal, project, agent, question)
        served = self._gateway.resolve(run.principal, run.endpoint)
        answer = Answer("", [], refused=True, model=served.model, site=served.site, usage=run.usage)
        passage = await self._grounds(run, await self._passages(project, run.spec, run.question))
        if passage is not None:
            async for piece in self._write(run, passage):
                answer.answer += piece
                yield piece
            answer.answer = answer.answer.strip()
            answer.refused = False
            answer.citations = [_cite(passage, answer.answer, run.question)]
        else:
            answer.answer = prompts.refusal(run.language)
            yield answer.answer
        answer.seconds = time.monotonic() - started
        yield answer

    def _prepare(self, principal: Principal, project: str, agent: str, question: str) -> _Run:
        text = question.strip()
        if not text:
            raise Invalid("the question is empty", where="question", hint="ask something")
        if len(text) > QUERY_CHARACTERS_MAX:
            raise LimitExceeded(
                f"the question has {len(text)} characters; at most {QUERY_CHARACTERS_MAX} are read",
                where="question",
                hint="shorten it, or put long material into a knowledge base",
            )
        spec = cast(AgentSpec, self._agent(project, agent).spec)
        language = cast(prompts.Language, detect(text))
        caller = Principal(name=principal.name, key_id=principal.key_id, project=project)
        return _Run(caller, spec, endpoint_key(project, spec.endpoint), text, language, Usage())

    def _agent(self, project: str, name: str) -> Resource:
        resource = self._snapshot.find(Key("Agent", project, name))
        if resource is None or resource.deleting:
            known = [agent.metadata.name for agent in self._snapshot.list("Agent", project)]
            raise NotFound(f"there is no agent {name!r} in project {project!r}", hint=nearest(name, known))
        return resource

    async def _passages(self, project: str, spec: AgentSpec, question: str) -> list[Passage]:
        found = [
            passage
            for knowledge_base in spec.knowledge
            for passage in await self._retriever.search(project, knowledge_base, question, limit=spec.passages_max)
        ]
        return sorted(found, key=lambda passage: -passage.score)[: spec.passages_max]

    async def _grounds(self, run: _Run, passages: list[Passage]) -> Passage | None:
        """The passage that the model most surely says states the answer, or None when no one reaches the bar."""
        bar = self._bar
        if max((passage.dense for passage in passages), default=0.0) < bar.similarity_min:
            return None
        judged: list[tuple[float, float, Passage]] = []
        for passage in passages:
            verdict = await self._judge(run, passage)
            if verdict >= bar.verdict_sure:
                return passage
            judged.append((verdict + bar.rank_weight * passage.score, verdict, passage))
        _, verdict, best = max(judged, key=lambda one: one[0])
        return best if verdict >= bar.verdict_min else None

    async def _judge(self, run: _Run, passage: Passage) -> float:
        messages = prompts.judge(run.spec.instructions, passage.heading, passage.text, run.question)
        reply = await self._complete(run, messages, tokens_max=1, logprobs=True, top_logprobs=_TOP_TOKENS)
        return _verdict(reply["choices"][0])

    async def _write(self, run: _Run, passage: Passage) -> AsyncIterator[str]:
        """The answer, sentence by sentence, each checked before it is shown.

        A figure that stands neither in the passage nor in the question was invented: the answer ends before it, and
        when nothing was said yet the passage's own sentence is the answer.
        """
        messages = prompts.answer(run.spec.instructions, passage.heading, passage.text, run.question, run.language)
        said = False
        async for sentence in _sentences(self._text(run, messages)):
            if invented_figures(sentence, f"{passage.heading} {passage.text}", run.question):
                break
            said = said or bool(sentence.strip())
            yield sentence
        if not said:
            yield _cite(passage, "", run.question).quote

    async def _complete(self, run: _Run, messages: list[prompts.Message], *, tokens_max: int, **options: Any) -> Any:
        body = {"messages": messages, "temperature": 0, "max_tokens": tokens_max, **options}
        async with self._gateway.chat(run.principal, run.endpoint, body) as reply:
            content = b"".join([piece async for piece in reply.body])
        if reply.status != 200:
            raise _refused_by_model(reply.status, content, run.endpoint)
        result = orjson.loads(content)
        run.usage.add(result.get("usage") or {})
        return result

    async def _text(self, run: _Run, messages: list[prompts.Message]) -> AsyncIterator[str]:
        """The text of a streamed completion, as it comes."""
        body = {
            "messages": messages,
            "temperature": 0,
            "max_tokens": run.spec.answer_tokens_max,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._gateway.chat(run.principal, run.endpoint, body) as reply:
            if reply.status != 200:
                raise _refused_by_model(reply.status, b"".join([p async for p in reply.body]), run.endpoint)
            async for event in _events(reply.body):
                run.usage.add(event.get("usage") or {})
                for choice in event.get("choices", ()):
                    yield choice.get("delta", {}).get("content") or ""


async def _events(body: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON payloads of a server-sent event stream, up to ``[DONE]``."""
    pending = b""
    async for piece in body:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            payload = line.strip().removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or payload == b"[DONE]":
                continue
            event = orjson.loads(payload)
            if "error" in event:
                raise Transient(f"the model broke off: {event['error'].get('message', 'no reason given')}")
            yield event


async def _sentences(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """The same text cut behind each sentence, so that a whole sentence can be checked before it is shown."""
    pending = ""
    async for piece in pieces:
        pending += piece
        *whole, pending = _SENTENCE.split(pending)
        for sentence in whole:
            yield sentence
    if pending:
        yield pending


def _verdict(choice: dict[str, Any]) -> float:
    """How probable "yes" is against "no" as the first token, 0 to 1; a server without probabilities gives 0 or 1."""
    tokens = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    if not tokens:
        return 1.0 if str(choice["message"].get("content", "")).strip().lower().startswith(_YES) else 0.0
    weight = {True: 0.0, False: 0.0}
    for token in tokens:
        word = str(token["token"]).strip().lower()
        if word in _YES or word in _NO:
            weight[word in _YES] += math.exp(token["logprob"])
    total = weight[True] + weight[False]
    return weight[True] / total if total else 0.0


def _cite(passage: Passage, answer: str, question: str) -> Citation:
    span = quote(passage.text, answer, question)
    return Citation(
        passage.document,
        passage.heading,
        passage.text[span.start : span.end],
        passage.start + span.start,
        passage.start + span.end,
    )


def _refused_by_model(status: int, content: bytes, endpoint: Key) -> FalajError:
    try:
        message = str(orjson.loads(content)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = content[:200].decode("utf-8", "replace")
    if 400 <= status < 500:
        return Invalid(f"the model refused the prompt: {message}", where=str(endpoint))
    return Transient(f"the model failed: {message}", where=str(endpoint), hint="try again in a few seconds")
