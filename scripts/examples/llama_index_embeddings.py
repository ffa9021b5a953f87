"""LlamaIndex over sealed artifacts, in this process: an embedding model, and a reranker behind it.

Usage: llama_index_embeddings.py EMBEDDER RERANKER

Over HTTP none is needed: LlamaIndex's `TextEmbeddingsInference(base_url="http://127.0.0.1:8080")` asks the server.
"""

import asyncio
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import shim


class ShimEmbedding(BaseEmbedding):
    """Documents and queries each behind the model's own prompt for them."""

    _model: shim.Model = PrivateAttr()

    def __init__(self, model: shim.Model):
        super().__init__(model_name=model.name)
        self._model = model

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed(texts, task="retrieval.passage").dense.tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._model.embed([query], task="retrieval.query").dense[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


class ShimRerank(BaseNodePostprocessor):
    """The best `top_n` of what was retrieved."""

    top_n: int = 3
    _model: shim.Model = PrivateAttr()

    def __init__(self, model: shim.Model, top_n: int = 3):
        super().__init__(top_n=top_n)
        self._model = model

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None or not nodes:
            return nodes
        ranked = self._model.rerank(query_bundle.query_str, [one.node.get_content() for one in nodes], self.top_n)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in ranked]


if __name__ == "__main__":
    with shim.load(sys.argv[1]) as embedder, shim.load(sys.argv[2]) as reranker:
        nodes = [TextNode(text=text) for text in ("The soup needs more salt.", "I forgot my login code.", "The ferry is late.")]
        index = VectorStoreIndex(nodes, embed_model=ShimEmbedding(embedder))
        retriever = index.as_retriever(similarity_top_k=2)
        question = "How do I reset my password?"
        found = retriever.retrieve(question)
        print(found[0].text)
        for node in ShimRerank(reranker).postprocess_nodes(found, query_str=question):
            print(f"{node.score:.4f} {node.text}")
