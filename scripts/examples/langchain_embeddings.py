"""LangChain's `Embeddings` over a sealed artifact, in this process. Usage: langchain_embeddings.py ARTIFACT

Over HTTP none is needed: `langchain_openai.OpenAIEmbeddings(base_url="…/v1", check_embedding_ctx_length=False)`.
"""

import sys

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

import shim


class ShimEmbeddings(Embeddings):
    """Documents and queries each behind the model's own prompt for them."""

    def __init__(self, model: shim.Model):
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.model.embed(texts, task="retrieval.passage").dense.tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.model.embed([text], task="retrieval.query").dense[0].tolist()


if __name__ == "__main__":
    with shim.load(sys.argv[1]) as model:
        store = InMemoryVectorStore(ShimEmbeddings(model))
        store.add_texts(["The soup needs more salt.", "I forgot my login code."])
        print(store.similarity_search("How do I reset my password?", k=1)[0].page_content)
