"""The worker that measures several models on held-out rows with transformers.

It runs in the quantizer's environment, which reads every format.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_trainer.metrics.answers import answered
from tuneyard_trainer.metrics.speed import measure_speed
from tuneyard_trainer.metrics.tally import HeldOut, Row, Tally, predicted
from tuneyard_trainer.runtime.worker_main import emit, worker_main
from tuneyard_trainer.weights.precision import computes_in_bfloat16

BATCH_TOKENS = 1024  # padded tokens per forward pass


def score(request: ScoreRequest) -> ScoreOutcome:
    """The reference comes first, as the others are compared with its logits."""
    torch.set_num_threads(request.threads or torch.get_num_threads())
    transformers.logging.set_verbosity_error()
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN builds a plan for each new length of a row
    held_out = HeldOut.of(request)
    scores: dict[str, Score] = {}
    for subject in sorted(request.models, key=lambda subject: subject != request.reference):
        emit(ItemsDone(done=len(scores), total=len(request.models), item=subject))
        scores[subject] = score_model(request.models[subject], held_out, Tally.of(request, subject))
    return ScoreOutcome(scores=scores)


def score_model(directory: Path, held_out: HeldOut, tally: Tally) -> Score:
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        # An answer reads all weights for each of its tokens, so they are not converted for each product.
        dtype=torch.bfloat16 if computes_in_bfloat16() else torch.float32,
        local_files_only=True,
        device_map={"": 0} if torch.cuda.is_available() else None,
    ).eval()
    memory = memory_bytes(model)
    with torch.inference_mode():
        score_rows(model, held_out.rows, tally)
        if tally.general:
            score_rows(model, held_out.general, tally.general)
        speed = measure_speed(partial(generate, model), held_out.rows)
        ends = tally.end_tokens | own_ends(model)
        answers = answered(partial(answer, model, ends), held_out.prompts, ends)
    engine = f"transformers {transformers.__version__}"
    return tally.score(memory_bytes=memory, speed=speed, engine=engine, answers=answers)


def score_rows(model: torch.nn.Module, rows: Sequence[Row], tally: Tally) -> None:
    """Adds the answer tokens of all rows to the tally."""
    for batch in batches(rows):
        score_batch(model, [(number, *rows[number]) for number in batch], tally)


def score_batch(model: torch.nn.Module, batch: Sequence[tuple[int, list[int], list[int]]], tally: Tally) -> None:
    """Adds the answer tokens of some rows to the tally."""
    width = max(len(ids) for _, ids, _ in batch)
    device = next(model.parameters()).device
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for _, row, _ in batch], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for _, row, _ in batch], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for index, (number, _, labels) in enumerate(batch):
        if not (positions := predicted(labels)):
            continue
        # The logits of a position are those of the next token.
        found = logits[index, [position - 1 for position in positions]].to(torch.float32)
        targets = torch.tensor([labels[position] for position in positions], device=device)
        nll = torch.nn.functional.cross_entropy(found, targets, reduction="none")
        tally.add(labels, nll.cpu().numpy(), positions)
        if number in tally.compared:
            tally.compare(number, found.cpu().numpy())


def batches(rows: Sequence[Row]) -> Iterator[list[int]]:
    """The numbers of rows of similar length, with at most BATCH_TOKENS padded tokens unless a single row has more."""
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number][0])):
        if batch and len(rows[number][0]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def memory_bytes(model: torch.nn.Module) -> int:
    """The weights as they are in memory where they are in 16 bits, shared ones once."""
    return sum(
        tensor.numel() * (min(2, tensor.element_size()) if tensor.is_floating_point() else tensor.element_size())
        for tensor in (*model.parameters(), *model.buffers())
    )


def generate(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """So many tokens after each prompt, whether a token ends the answer or not."""
    return _generate(model, prompts, tokens, min_new_tokens=tokens, pad_token_id=0)


def answer(model: Any, ends: frozenset[int], prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The answers, of at most so many tokens; behind a token that ends one there are others that end one."""
    if not ends:
        return generate(model, prompts, tokens)
    return _generate(model, prompts, tokens, eos_token_id=sorted(ends), pad_token_id=min(ends))


def own_ends(model: Any) -> frozenset[int]:
    """The tokens that end an answer by the model's generation_config.json."""
    found = model.generation_config.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or [])


def _generate(model: Any, prompts: list[list[int]], tokens: int, **options: Any) -> list[list[int]]:
    # Shorter prompts are padded on the left, so that all answers begin at one place.
    width, device = max(map(len, prompts)), next(model.parameters()).device
    given = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    generated = model.generate(given, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **options)
    answers: list[list[int]] = generated[:, width:].tolist()  # which waits for the GPU
    return answers


if __name__ == "__main__":
    worker_main(ScoreRequest, score)
