"""Poolers on language tasks with frozen language models: the shape of the paper's Table 2, Figure 1.

    python experiments/language.py --data-dir DIR
    python experiments/language.py --quick

DIR holds banking77/, tweet_emotion/, stsb/ and hellaswag/, see "poolax data list". Records, heads, the
table (Markdown, CSV, LaTeX) and the figures stand in --out, the radar of Figure 1 for three tasks or
more; the same command goes on from what is there. Other data sets of that list and your own files are
named in place of these:

    python experiments/language.py --datasets reviews.csv --text-column body --label-column topic
    python experiments/language.py --datasets hellaswag_next_token --data-dir DIR --backbone MODEL

The second has heads that predict the next token from beginnings of texts of up to 32 tokens, which are
held out of what the small models were pretrained on (next_tokens.py); each data set of texts has it.

The paper reports BERT, two GPT-2s and larger causal models on five tasks: BERT on BANKING77 from
77.2 % (CLS) to 85.1 % (average), GPT-2 from 45.5 % (last) to 86.5 % (average); last best in predicting
the next token.

Duration (estimate, two CPU cores): two hours for MiniLM, most of it for attention; --quick a minute.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("language")

import dataclasses
import sys

import comparison
import minilm
import next_tokens

from poolax import training
from poolax.cli import OptionalCount, check_count


@dataclasses.dataclass(frozen=True)
class Options(comparison.Options):
    """Compare poolers on language tasks with frozen language models.

    Attributes:
        max_tokens: Tokens that texts are cut to; by default those that the table's notes tell.
    """

    out: str = "poolax-language"
    max_tokens: OptionalCount = None

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        if self.max_tokens is not None:
            check_count("max_tokens", self.max_tokens)


def case(name, task, *, max_tokens, limit=None):
    """A row of the table.

    Args:
        name: Name of the data set.
        task: Gives the task on it.
        max_tokens: Tokens that texts are cut to.
        limit: Most examples of each split.
    """

    def dataset(context):
        return context.read(name, limit)

    def fitted(context, data, backbone):
        length = min(context.options.max_tokens or max_tokens, backbone.preprocess.max_tokens)
        preprocess = dataclasses.replace(backbone.preprocess, max_tokens=length)
        cut = comparison.with_notes(data, f"texts cut to {length} tokens")
        return cut, dataclasses.replace(backbone, preprocess=preprocess)

    return comparison.Case(dataset=dataset, task=task, backbone=backbone, fitted=fitted)


def backbone(context):
    """MiniLM, where no backbone is given."""
    del context
    return comparison.loaded(comparison.MINILM), minilm.NAME


def other(name):
    """A row for another data set, for one's own texts, or for the next tokens of a data set's."""
    base, task = comparison.named_task(name)
    if task == "next_token":
        return next_tokens.case(base, backbone)
    return case(name, training.task_for, max_tokens=128)


def classification(data):
    """As many classes as the data set has."""
    return training.Classification(data.num_classes)


STUDY = comparison.Study(
    name="language",
    modality="language",
    title="Language: poolers on frozen language models",
    options=Options(),
    cases={
        "banking77": case("banking77", classification, max_tokens=32),
        "tweet_emotion": case("tweet_emotion", classification, max_tokens=48),
        "stsb": case("stsb", lambda _: training.SentenceSimilarity(), max_tokens=32),
        "hellaswag": case(
            "hellaswag", lambda _: training.SentenceCompletion(), max_tokens=64, limit=2000
        ),
    },
    other=other,
    quick={**comparison.QUICK, "datasets": ("topics",), "max_tokens": 16},
    radar=True,
)

if __name__ == "__main__":
    sys.exit(comparison.main(STUDY))
