"""The first tab: one clip, the names it may show, and what is said of it.

Owns its layout, its events and what is remembered of a session between them. What is answered is
`page_desk`, how it looks `page_answer` and `page_timeline`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from tcaf.app.page_answer import (
    answer_html,
    as_files,
    empty_html,
    files_html,
    problem_html,
    provenance_html,
)
from tcaf.app.page_desk import Desk
from tcaf.app.page_examples import Example, examples
from tcaf.app.page_names import MODEL, OWN, as_text, choices, names_in, picked
from tcaf.app.page_parts import QUICK, READING, calling, html, import_gradio, streaming
from tcaf.app.page_questions import Question, Told
from tcaf.app.page_timeline import player_html, stretches_html, timeline_html
from tcaf.app.page_turns import Current, Turns
from tcaf.app.refusals import Kind, RefusedError
from tcaf.app.shelf import Placed
from tcaf.errors import TCAFError

EMPTY = "Drop a clip, record one, or pick an example: what it shows appears here."

NO_CLIP = "There is no clip yet."

NOT_YET: tuple[Kind, ...] = ("busy", "ended", "too_slow")
"""Refusals after which the same clip may be asked about again."""

DRAWING = '<p class="t-note" role="status">Drawing what there is over time …</p>'

ADVICE = "Try another file, or pick an example; the page goes on."


class ClipTab:
    """The first tab of the page; to be made where Gradio's blocks are open.

    Args:
        desk: what answers.
    """

    def __init__(self, desk: Desk) -> None:
        self._gr, self._desk, self._turns = import_gradio(), desk, Turns()
        with self._gr.Row(equal_height=False):
            with self._gr.Column(scale=5, min_width=300):
                self._inputs()
            with self._gr.Column(scale=7, min_width=300):
                self._outputs()
        self._told = [
            *(self._answer, self._bias, self._box, self._player, self._rows, self._spans),
            *(self._files, self._facts),
        ]
        self._skipped = (self._gr.skip(),) * len(self._told)
        self._events()

    def _inputs(self) -> None:
        gr, desk = self._gr, self._desk
        self._drop = gr.File(label="Clip", height=160, elem_id="t-drop")
        with gr.Accordion("Record with camera and microphone", open=False):
            self._record = gr.Video(
                label="Recording",
                sources=["webcam"],
                include_audio=True,
                webcam_options=gr.WebcamOptions(mirror=False),
                height=260,
                elem_id="t-record",
            )
        with gr.Row(elem_id="t-examples"):
            self._examples = {
                gr.Button(f"Example: {each.title}", size="sm", min_width=120): each
                for each in examples()
            }
        self._list = gr.Dropdown(
            choices(), value=MODEL, label="Names to choose from", filterable=False, elem_id="t-list"
        )
        self._names = gr.Textbox(
            label="Names, one a line",
            placeholder="cat purring\ndog barking\nempty: the model's own classes",
            lines=5,
            max_lines=9,
            elem_id="t-names",
        )
        self._ask = gr.Button("Answer", variant="primary", elem_id="t-ask")
        with gr.Accordion("More", open=False):
            self._top = gr.Slider(1, 50, value=5, step=1, label="How many answers")
            self._abstain = gr.Slider(
                0,
                0.5,
                value=0.05 if desk.can_abstain else 0,
                step=0.01,
                label="Share of mistakes that is allowed for “none of these”",
                info=desk.about_abstaining,
                interactive=desk.can_abstain,
            )
            self._every = gr.Number(
                value=0, minimum=0, label="Seconds of a stretch", info=desk.about_stretches
            )

    def _outputs(self) -> None:
        gr, reach = self._gr, self._desk.reach
        self._answer = html("t-answer", empty_html(EMPTY))
        self._bias = gr.Slider(
            -reach,
            reach,
            value=0,
            step=self._desk.bias_step,
            label="Bias: to the left seen classes come first, to the right unseen ones",
            elem_id="t-bias",
            visible=False,
        )
        with gr.Column(visible=False, elem_classes="t-clip-box") as self._box:
            self._player = html("t-player")
            self._rows = html("t-rows")
            self._spans = html("t-spans")
        self._files = html("t-answer-files")
        self._facts = html("t-facts")

    def _events(self) -> None:
        asked = [self._names, self._top, self._abstain, self._every, self._bias]
        reading: dict[str, Any] = {
            "concurrency_id": READING,
            "concurrency_limit": self._desk.workers,
            "show_progress_on": [self._answer],
            "scroll_to_output": True,
            # Whoever asks while an answer is made is answered after it.
            "trigger_mode": "always_last",
        }
        bring = self._in_turn(self._bring, brings=True)
        self._drop.upload(bring, [self._drop, *asked], self._told, **reading)
        self._record.stop_recording(bring, [self._record, *asked], self._told, **reading)
        self._drop.clear(calling(self._clear), None, self._told, queue=False)
        for button, example in self._examples.items():
            named = [self._names, self._list]
            button.click(lambda e=example: (as_text(e.names), OWN), None, named, queue=False).then(
                self._in_turn(self._try(example), brings=True), asked, self._told, **reading
            )
        self._ask.click(self._in_turn(self._again), asked, self._told, **reading)
        picking = {"queue": False, "trigger_mode": "always_last"}
        self._list.input(picked, [self._list, self._names], self._names, **picking).then(
            self._in_turn(self._again, only_with_clip=True), asked, self._told, **reading
        )
        self._names.input(lambda: OWN, None, self._list, queue=False, show_progress="hidden")
        quick = [self._answer, self._spans, self._files, self._facts]
        self._bias.input(
            calling(self._moved),
            asked,
            quick,
            concurrency_limit=QUICK,
            trigger_mode="always_last",
            show_progress="hidden",
        )

    def forget(self, session: str) -> None:
        """Forgets a session."""
        self._turns.end(session)

    def _in_turn(
        self,
        handler: Callable[..., Iterator[Any]],
        *,
        brings: bool = False,
        only_with_clip: bool = False,
    ) -> Callable[..., Iterator[Any]]:
        """Returns what Gradio streams from; it goes no further once another question began.

        Args:
            handler: given the session, the turn and what was asked.
            brings: whether a clip comes with it.
            only_with_clip: nothing is asked where there is no clip.
        """

        def answers(session: str, *values: Any) -> Iterator[Any]:
            if only_with_clip and self._turns.clip(session) is None:
                yield self._skipped
                return
            turn = self._turns.begin(session, brings=brings)
            for said in handler(session, turn, *values):
                if not self._turns.is_last(session, turn):
                    yield self._skipped
                    return
                yield said

        return streaming(answers)

    def _clear(self, session: str) -> tuple[Any, ...]:
        """Takes the clip away; what is asked of it still is not shown any more."""
        return self._nothing(session, self._turns.begin(session, brings=True))

    def _nothing(self, session: str, turn: int) -> tuple[Any, ...]:
        self._turns.hold(session, turn, None)
        return self._no_answer(session, turn, empty_html(EMPTY))

    def _bring(self, session: str, turn: int, brought: str | None, *asked: Any) -> Iterator[Any]:
        """Takes over what was dropped or recorded, and answers."""
        if not brought:
            yield self._nothing(session, turn)
            return
        place = Path(brought)
        yield from self._with(
            session, turn, lambda: self._desk.take(session, place, place.name), asked
        )

    def _try(self, example: Example) -> Any:
        """Returns what makes an example and answers it."""

        def answers(session: str, turn: int, *asked: Any) -> Iterator[Any]:
            yield from self._with(
                session, turn, lambda: self._desk.make(session, example.file, example.write), asked
            )

        return answers

    def _with(
        self, session: str, turn: int, place: Callable[[], Placed], asked: tuple[Any, ...]
    ) -> Iterator[Any]:
        """Answers a clip that comes with a turn."""
        clip, told = None, ""
        try:
            clip = Current(place())
        except TCAFError as error:
            told = str(error)
        finally:
            # Others may wait for it.
            self._turns.hold(session, turn, clip)
        if clip is None:
            yield self._problem(session, turn, told)
            return
        yield from self._answers(session, turn, clip, asked)

    def _again(self, session: str, turn: int, *asked: Any) -> Iterator[Any]:
        """Answers the session's clip."""
        clip = self._turns.clip(session)
        if clip is None:
            yield self._problem(session, turn, NO_CLIP)
            return
        yield from self._answers(session, turn, clip, asked)

    def _answers(
        self, session: str, turn: int, clip: Current, asked: tuple[Any, ...]
    ) -> Iterator[Any]:
        """Yields the answer as soon as it is there, then what there is over time."""
        if not self._turns.is_last(session, turn):
            # Nobody waits for it any more: nothing is read.
            yield self._skipped
            return
        try:
            answer, spans, files, facts = self._settled(session, turn, clip, self._question(*asked))
        except TCAFError as error:
            # A clip that can be read, or could not be yet, is kept for another question.
            is_kept = isinstance(error, RefusedError) and error.kind in NOT_YET
            if not is_kept and not self._desk.is_read(session, clip.placed):
                self._turns.replace(session, clip, None)
            yield self._problem(session, turn, str(error))
            return
        skip, shown = self._gr.skip(), self._gr.update(visible=True)
        player = player_html(clip.placed.url, clip.has_picture)
        rows = DRAWING if clip.rows is None else clip.rows
        yield answer, shown, shown, player, rows, spans, files, facts
        if clip.rows is None:
            drawn = self._over_time(session, clip)
            self._turns.replace(session, clip, drawn)
            # A player that plays is left alone.
            player = skip if drawn.has_picture else player_html(clip.placed.url, False)
            yield skip, skip, skip, player, drawn.rows, skip, skip, skip

    def _settled(
        self, session: str, turn: int, clip: Current, question: Question
    ) -> tuple[str, str, str, str]:
        """Returns what is said, with the bias as it stands when the answer is there."""
        while True:
            bias = self._turns.bias(session, question.seen_bias)
            asked = replace(question, seen_bias=bias)
            said = _said(self._desk.answer(session, clip.placed, asked))
            if self._turns.show(session, turn, clip, bias):
                return said

    def _over_time(self, session: str, current: Current) -> Current:
        """Returns a clip with what there is over time."""
        try:
            view, attention = self._desk.over_time(session, current.placed)
        except TCAFError as error:
            said = f'<p class="t-note">No timeline: {escape(str(error))}.</p>'
            return replace(current, rows=said)
        rows = timeline_html(view, attention)
        return replace(current, rows=rows, has_picture=bool(len(view.frames)))

    def _moved(self, session: str, *asked: Any) -> tuple[Any, ...]:
        """Answers what is shown anew with another bias: nothing is read for it."""
        *_, bias = asked
        shown, clip = self._turns.move(session, float(bias or 0.0))
        skipped = (self._gr.skip(),) * 4
        if clip is None:
            return skipped
        try:
            said = _said(self._desk.answer(session, clip.placed, self._question(*asked)))
        except TCAFError as error:
            said = problem_html(str(error)), "", "", ""
        # An answer that came meanwhile has this bias already.
        return said if self._turns.is_shown(session, shown) else skipped

    def _question(
        self, names: str, top: float, abstain: float, every: float | None, bias: float
    ) -> Question:
        return Question(
            tuple(names_in(names or "", self._desk.known)),
            seen_bias=float(bias or 0.0),
            top_k=int(top),
            abstain=float(abstain) if self._desk.can_abstain and abstain else None,
            every_s=float(every) if every else None,
        )

    def _problem(self, session: str, turn: int, sentence: str) -> tuple[Any, ...]:
        advice = "" if sentence == NO_CLIP else ADVICE
        return self._no_answer(session, turn, problem_html(sentence, advice))

    def _no_answer(self, session: str, turn: int, said: str) -> tuple[Any, ...]:
        """Returns what is shown in place of an answer: it alone."""
        self._turns.show_none(session, turn)
        hidden = self._gr.update(visible=False)
        return said, hidden, hidden, "", "", "", "", ""


def _said(told: Told) -> tuple[str, str, str, str]:
    """Returns an answer as HTML, its stretches, it as files, and where it comes from."""
    answer = answer_html(told.value["predictions"][0], told.notes)
    files = files_html(as_files(told.value, told.captions, Path(told.name).stem or "answer"))
    spans = stretches_html(told.spans, told.captions)
    return answer, spans, files, provenance_html(told.facts)
