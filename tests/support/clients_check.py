"""Run in the environment of scripts/clients: CLIENT,… ADDRESS EMBEDDER RERANKER -> a line of JSON of what each client got.

Of embedders {"vectors"}, of rerankers {"order", "scores"}: the documents' numbers, best first; of what failed {"error"}.
"""

import contextlib
import json
import os
import sys

TEXTS = ["The ferry leaves at nine.", "Паром отходит в девять."]
QUERY, DOCUMENTS = "When does the ferry leave?", ["Soup.", "The ferry leaves at seven.", "Паром отходит в семь."]
# litellm fetches its price list, and others say hello, at import: nothing here may need the network.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}


def openai(url, embedder, reranker):
    import openai

    answer = openai.OpenAI(base_url=f"{url}/v1", api_key="key").embeddings.create(model=embedder, input=TEXTS)
    return vectors(item.embedding for item in answer.data)


def openai_token_ids(url, embedder, reranker):
    import httpx
    import openai

    rows = httpx.post(f"{url}/tokenize", json={"inputs": TEXTS, "model": embedder}).json()
    ids = [[token["id"] for token in row] for row in rows]
    answer = openai.OpenAI(base_url=f"{url}/v1", api_key="key").embeddings.create(model=embedder, input=ids)
    return vectors(item.embedding for item in answer.data)


def cohere_embed(url, embedder, reranker):
    import cohere

    client = cohere.ClientV2(api_key="key", base_url=url)
    answer = client.embed(model=embedder, texts=TEXTS, input_type="search_document", embedding_types=["float", "int8"])
    assert len(answer.embeddings.int8) == len(TEXTS)
    return vectors(answer.embeddings.float_)


@contextlib.contextmanager
def online():
    """huggingface_hub's clients of other servers are off where the hub is."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    yield
    constants.HF_HUB_OFFLINE = True


def huggingface_hub(url, embedder, reranker):
    from huggingface_hub import InferenceClient

    with online():
        return vectors(InferenceClient(url).feature_extraction(TEXTS, normalize=True).tolist())


def haystack_tei(url, embedder, reranker):
    from haystack import Document
    from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder

    made = HuggingFaceAPIDocumentEmbedder(api_type="text_embeddings_inference", api_params={"url": url}, normalize=True)
    with online():
        return vectors(each.embedding for each in made.run([Document(content=text) for text in TEXTS])["documents"])


def ollama(url, embedder, reranker):
    import ollama

    client = ollama.Client(host=url)
    assert embedder in [model.model.removesuffix("-onnx-32bit:latest") for model in client.list().models]
    each = [client.embeddings(model=embedder, prompt=text).embedding for text in TEXTS]
    rows = client.embed(model=embedder, input=TEXTS).embeddings
    assert max(abs(a - b) for row, other in zip(rows, each, strict=True) for a, b in zip(row, other, strict=True)) < 1e-5
    return vectors(rows)


def posted(url, **body):
    import httpx

    answer = httpx.post(url, json=body, headers={"authorization": "Bearer key"})
    answer.raise_for_status()
    return answer.json()


def open_webui_openai(url, embedder, reranker):
    return vectors(row["embedding"] for row in posted(f"{url}/v1/embeddings", input=TEXTS, model=embedder)["data"])


def open_webui_ollama(url, embedder, reranker):
    return vectors(posted(f"{url}/api/embed", input=TEXTS, model=f"{embedder}:latest", truncate=True)["embeddings"])


def open_webui_rerank(url, embedder, reranker):
    found = posted(f"{url}/v1/rerank", model=reranker, query=QUERY, documents=DOCUMENTS, top_n=len(DOCUMENTS))
    return ranking(found["results"])


def ragflow_tei(url, embedder, reranker):
    return vectors(row for text in TEXTS for row in posted(f"{url}/embed", inputs=text))


def ragflow_ollama(url, embedder, reranker):
    more = {"options": {"use_mmap": True}, "keep_alive": -1}
    return vectors(posted(f"{url}/api/embeddings", prompt=text, model=embedder, **more)["embedding"] for text in TEXTS)


def ragflow_xinference(url, embedder, reranker):
    sent = {"model": reranker, "query": QUERY, "documents": DOCUMENTS, "return_documents": "true", "return_len": "true"}
    return ranking(posted(f"{url}/v1/rerank", **sent)["results"])


def ragflow_huggingface(url, embedder, reranker):
    found = posted(f"{url}/rerank", query=QUERY, texts=DOCUMENTS, raw_scores=False, truncate=True)
    return {"order": [item["index"] for item in found], "scores": [item["score"] for item in found]}


def cohere_v1(url, embedder, reranker):
    import cohere

    return ranking(cohere.Client(api_key="key", base_url=url).rerank(model=reranker, query=QUERY, documents=DOCUMENTS).results)


def cohere_v2(url, embedder, reranker):
    import cohere

    client = cohere.ClientV2(api_key="key", base_url=url)
    return ranking(client.rerank(model=reranker, query=QUERY, documents=DOCUMENTS).results)


def litellm_openai(url, embedder, reranker):
    import litellm

    answer = litellm.embedding(model=f"openai/{embedder}", input=TEXTS, api_base=f"{url}/v1", api_key="key")
    return vectors(item["embedding"] for item in answer.data)


def litellm_rerank(provider, url, reranker, **more):
    import litellm

    answer = litellm.rerank(
        model=f"{provider}/{reranker}", query=QUERY, documents=DOCUMENTS, api_base=url, api_key="key", top_n=3, **more
    )
    return ranking(answer.results)


def litellm_hosted_vllm(url, embedder, reranker):
    return litellm_rerank("hosted_vllm", url, reranker)


def litellm_infinity(url, embedder, reranker):
    # Infinity gives a document back as a bare string, where Cohere and we give {"text"}: without documents the two agree.
    return litellm_rerank("infinity", url, reranker, return_documents=False)


def litellm_cohere(url, embedder, reranker):
    return litellm_rerank("cohere", f"{url}/v2/rerank", reranker)


def litellm_huggingface(url, embedder, reranker):
    return litellm_rerank("huggingface", url, reranker)


def langchain(url, embedder, reranker):
    from langchain_openai import OpenAIEmbeddings

    options = {"base_url": f"{url}/v1", "api_key": "key", "check_embedding_ctx_length": False}
    return vectors(OpenAIEmbeddings(model=embedder, **options).embed_documents(TEXTS))


def llama_index_tei(url, embedder, reranker):
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    model = TextEmbeddingsInference(model_name=embedder, base_url=url, text_instruction="", query_instruction="")
    return vectors(model.get_text_embedding_batch(TEXTS))


def llama_index_jina(url, embedder, reranker):
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(DOCUMENTS)]
    found = JinaRerank(top_n=3, model=reranker, base_url=f"{url}/v1", api_key="key").postprocess_nodes(
        nodes, QueryBundle(QUERY)
    )
    return {"order": [int(node.node_id) for node in found], "scores": [node.score for node in found]}


def rerankers_of(url, provider, reranker, path):
    from rerankers.models.api_rankers import APIRanker

    found = APIRanker(reranker, "key", provider, url=url + path).rank(query=QUERY, docs=DOCUMENTS)
    return {"order": [item.doc_id for item in found.results], "scores": [item.score for item in found.results]}


def rerankers_jina(url, embedder, reranker):
    return rerankers_of(url, "jina", reranker, "/v1/rerank")


def rerankers_cohere(url, embedder, reranker):
    return rerankers_of(url, "cohere", reranker, "/v2/rerank")


def rerankers_tei(url, embedder, reranker):
    return rerankers_of(url, "text-embeddings-inference", reranker, "/rerank")


def vectors(rows):
    return {"vectors": [list(row) for row in rows]}


def ranking(results):
    items = [item if isinstance(item, dict) else vars(item) for item in results]
    return {"order": [item["index"] for item in items], "scores": [item["relevance_score"] for item in items]}


if __name__ == "__main__":
    for client in sys.argv[1].split(","):
        try:
            found = globals()[client](*sys.argv[2:])
        except Exception as error:
            found = {"error": repr(error)}
        print(json.dumps({"client": client} | found))
