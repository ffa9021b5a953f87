"""Figures of a task, of two models on the same set, and the interval of their difference.

The figures are those of sentence-transformers' evaluators. The interval is the percentile bootstrap of the paired difference:
as many pairs (or queries) as the set has are drawn with replacement, the same ones for both models, RESAMPLES times, and the
quantiles that hold LEVEL of the differences between them are `low` and `high`.
Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from converter.evaluation.sets import Pairs, Retrieval
from shim.errors import UsageError
from shim.parity import Evaluation

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
# The tasks of shim.prompts behind whose prompts texts are asked.
SIMILARITY, QUERY, DOCUMENT = "text-matching", "retrieval.query", "retrieval.passage"
CUT = 10  # of nDCG, MRR and recall; recall at DEEP, too, where there are more documents
DEEP = 100

Output = np.ndarray | float  # a vector, or a reranker's logit


class Answers:
    """A model as sentence-transformers' evaluators ask it, which answers with outputs that are there already.

    outputs: of (task, text) the vector, of a reranker's (query, document) the logit. similarity: how vectors are compared.
    """

    def __init__(self, outputs: Mapping[tuple[str, str], Output], similarity: str = "cosine"):
        from sentence_transformers.util import SimilarityFunction

        self.outputs, self.similarity_fn_name = outputs, similarity
        self.similarity = SimilarityFunction.to_similarity_fn(similarity)
        self.pairwise = SimilarityFunction.to_similarity_pairwise_fn(similarity)
        self.model_card_data = self  # where evaluators leave what they found

    def set_evaluation_metrics(self, *_: object) -> None:
        """Nothing: there is no model card here."""

    def encode(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """(n, d) float32, behind the prompt for similarity."""
        return self._stack(SIMILARITY, texts)

    def encode_query(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """(n, d) float32, behind the prompt of queries."""
        return self._stack(QUERY, texts)

    def encode_document(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """(n, d) float32, behind the prompt of documents."""
        return self._stack(DOCUMENT, texts)

    def predict(self, pairs: Sequence[Sequence[str]], **_: object) -> np.ndarray:
        """(n,) float64 logits of queries with documents."""
        return np.array([self.outputs[query, document] for query, document in pairs], np.float64)

    def _stack(self, task: str, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.outputs[task, text] for text in texts])


def similarity(data: Pairs, original: Answers, artifact: Answers) -> list[Evaluation]:
    """Spearman's correlation of the model's own similarity with the pairs' scores. Raises UsageError where it has none."""
    from scipy.stats import rankdata
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    one, other, scores = (list(column) for column in zip(*data.pairs, strict=True))
    gold, found, whole = np.array(scores), [], []
    for side in (original, artifact):
        name = side.similarity_fn_name
        evaluator: Any = EmbeddingSimilarityEvaluator(one, other, scores, main_similarity=name, write_csv=False)
        found.append(side.pairwise(side.encode(one), side.encode(other)).numpy())
        if np.ptp(found[-1]) == 0:
            raise UsageError(f"{data.name}: all pairs are equally similar to the model; there is nothing to correlate")
        whole.append(evaluator(side)[f"spearman_{name}"])

    def difference(rows: np.ndarray) -> float:
        with np.errstate(invalid="ignore"):  # a draw of equal scores alone has no correlation
            ours, theirs = (np.corrcoef(rankdata(gold[rows]), rankdata(side[rows]))[0, 1] for side in found)
        return float(theirs - ours)

    return [_evaluation(data.name, "spearman", whole[0], whole[1], len(gold), difference)]


def retrieval(data: Retrieval, original: Answers, artifact: Answers) -> list[Evaluation]:
    """nDCG@10 and recall@10, and recall@100 where there are more documents, of all documents ordered for each query."""
    sides = [_retrieved(data, side) for side in (original, artifact)]
    return [_by_query(data.name, metric, *(side[metric] for side in sides)) for metric in sides[0]]


def reranking(data: Retrieval, original: Answers, artifact: Answers) -> list[Evaluation]:
    """nDCG@10 and MRR@10 of the relevant documents and the candidates ordered for each query."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    found: list[list[dict[str, float]]] = []
    for side in (original, artifact):
        each: list[Any] = [CrossEncoderRerankingEvaluator([sample], at_k=CUT, write_csv=False) for sample in samples(data)]
        found.append([evaluator(side) for evaluator in each])
    metrics = (f"ndcg@{CUT}", f"mrr@{CUT}")
    return [_by_query(data.name, metric, *([one[metric] for one in side] for side in found)) for metric in metrics]


def samples(data: Retrieval) -> list[dict[str, Any]]:
    """The queries with their texts, as a reranker gets them: `query`, `positive`, `negative`."""
    found = []
    for query, text in data.queries.items():
        positive = [key for key in data.relevant[query] if key in data.documents]
        others = [key for key in data.candidates.get(query, data.documents) if key not in positive]
        texts = {"positive": [data.documents[key] for key in positive], "negative": [data.documents[key] for key in others]}
        found.append({"query": text, **texts})
    return found


def _retrieved(data: Retrieval, side: Answers) -> dict[str, list[float]]:
    """{metric: its value of each query}."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    each: list[dict[str, dict[int, float]]] = []

    class ByQuery(InformationRetrievalEvaluator):
        """The evaluator's figures of each query alone, whose means it gives."""

        def compute_metrics(self, queries_result_list: list[Any]) -> Any:
            queries = list(zip(self.queries_ids, self.queries, queries_result_list, strict=True))
            for id, text, hits in queries:
                self.queries_ids, self.queries = [id], [text]
                each.append(super().compute_metrics([hits]))
            self.queries_ids, self.queries = [id for id, *_ in queries], [text for _, text, _ in queries]
            return super().compute_metrics(queries_result_list)

    given: Any = {"queries": data.queries, "corpus": data.documents, "write_csv": False}
    given |= {"relevant_docs": {query: set(documents) for query, documents in data.relevant.items()}}
    given |= {"ndcg_at_k": [CUT], "precision_recall_at_k": [CUT, DEEP], "mrr_at_k": [CUT], "accuracy_at_k": [CUT]}
    evaluator: Any = ByQuery(**given)
    evaluator(side)
    deep = [DEEP] * (len(data.documents) > DEEP)
    wanted = [("ndcg", CUT), ("recall", CUT), *(("recall", cut) for cut in deep)]
    return {f"{metric}@{cut}": [float(one[f"{metric}@k"][cut]) for one in each] for metric, cut in wanted}


def _by_query(name: str, metric: str, original: Sequence[float], artifact: Sequence[float]) -> Evaluation:
    change = np.array(artifact) - np.array(original)
    means = float(np.mean(original)), float(np.mean(artifact))
    return _evaluation(name, metric, *means, len(change), lambda rows: float(change[rows].mean()))


def _evaluation(
    name: str, metric: str, original: float, artifact: float, n: int, difference: Callable[[np.ndarray], float]
) -> Evaluation:
    """difference: artifact less original, on the pairs or queries of these numbers."""
    draws = np.random.default_rng(SEED)
    found = [difference(draws.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Evaluation(
        set=name,
        metric=metric,
        original=float(original),
        artifact=float(artifact),
        difference=float(artifact - original),
        low=float(low),
        high=float(high),
        n=n,
    )
