"""What goes before a text: prompts by task, by instruction, or by their names in the checkpoint; and the templates of pairs."""

from collections.abc import Mapping

from shim.checks import check_text
from shim.errors import UsageError
from shim.spec import ModelSpec

# What a task asks of a model that takes instructions; None where the text is given as it is.
INSTRUCTIONS = {
    "retrieval.query": (
        "Given a search query, retrieve relevant documents or passages that directly answer or address the query"
    ),
    "retrieval.passage": None,
    "text-matching": "Represent this text for finding semantically similar texts",
    "classification": "Represent this text for classification",
    "separation": "Represent this text for clustering",
    "clustering": "Represent this text for clustering",
    "code.query": "Given a natural language description, retrieve relevant code snippets or implementations",
    "code.passage": None,
    "scientific.query": "Given a scientific question, retrieve relevant research papers or scientific information",
    "qa.query": "Given a question, retrieve passages that contain the answer to the question",
    "bitext": "Represent this text for finding its translation in another language",
    "summarization.query": "Given a summary, retrieve the original document that matches this summary",
}
TASKS = tuple(INSTRUCTIONS)
TEMPLATE = "instruction"  # the key of a model's prompts whose value puts an instruction before a text
SLOT = "{instruction}"
PAIR = "pair"  # the key of a reranker's prompts that holds query and document; without it, the tokenizer's own pairs
PAIR_SLOTS = (SLOT, "{query}", "{document}")
DEFAULT = "default"  # the instruction of a pair for which none is given
PROMPTS = (*TASKS, TEMPLATE, PAIR, DEFAULT)
# What clients call a query and a document; the first is the prompt's name in the checkpoint.
ROLES = {"retrieval.query": ("query",), "retrieval.passage": ("document", "passage", "corpus")}
# Tasks that are the same to a model that has an adapter for one of them.
SAME = {"clustering": "separation"}
# What clients call them; a prompt of the checkpoint by such a name goes before.
NAMES = {name: task for task, names in ROLES.items() for name in names}


def fault(prompts: Mapping[str, str], task: str) -> tuple[str, str] | None:
    """The key of a model's prompts that is wrong for its task, embed or rerank, and what is wrong; None where all are good."""
    for key in prompts:
        if key not in PROMPTS or (key in (PAIR, DEFAULT)) != (task == "rerank"):
            return key, f"does not go with the task {task}"
    if SLOT not in prompts.get(TEMPLATE, SLOT):
        return TEMPLATE, f'must hold {SLOT}, not "{prompts[TEMPLATE]:.100}"'
    if PAIR in prompts and any(prompts[PAIR].count(slot) != 1 for slot in PAIR_SLOTS):
        return PAIR, f"must hold {', '.join(PAIR_SLOTS)} once each"
    return None


def prompt_for(prompts: Mapping[str, str], task: str | None, instruction: str | None = None) -> str:
    """What goes before a text: the model's own prompt for the task, or its template around the instruction.

    A custom instruction takes the place of the task's. Empty for a model without prompts, and for tasks that have none.
    Raises UsageError for an unknown task, and for an instruction given to a model that takes none.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"task {task!r:.100} unknown ({', '.join(TASKS)})", "task")
    template = prompts.get(TEMPLATE)
    if instruction is not None:
        if template is None:
            raise UsageError("this model takes no instruction; leave it out, or put it into the text")
        check_text(instruction, "instruction", param="instruction")
        return template.replace(SLOT, instruction)
    if task is None or task in prompts:
        return prompts.get(task or "", "")
    own = INSTRUCTIONS[task]
    return template.replace(SLOT, own) if template and own else ""


def is_query(task: str | None = None, name: str | None = None) -> bool:
    """Whether a text of this task, or behind the prompt of this name, is a query; else it is a document."""
    asked = task if name is None else name
    return (NAMES.get(asked or "", asked) or "").endswith("query")


def adapter_of(spec: ModelSpec, task: str | None = None, name: str | None = None) -> int:
    """The number of the adapter for a task, or for the prompt called `name` where that stands for one; -1 for none.

    Raises UsageError for a task that a model with adapters has none for.
    """
    tasks, task = spec.adapters or [], NAMES.get(task or "", task)
    for asked in (name, NAMES.get(name or ""), task):
        if asked is not None and (asked := SAME.get(asked, asked)) in tasks:
            return tasks.index(asked)
    if tasks and task is not None and name is None:
        raise UsageError(f"task {task!r:.100}: this model has adapters for {', '.join(tasks)}", "task")
    return -1


def knows_prompt(spec: ModelSpec, name: str) -> bool:
    """Whether `prompt_of` takes this name."""
    return name in spec.prompt_names or name in NAMES or name in TASKS


def named_for(names: Mapping[str, str], task: str | None) -> str | None:
    """The prompt that a checkpoint has for a task among those it names; None where it names none for it.

    Of a document it is `document` alone: sentence-transformers gives every model one, if an empty one, and looks no further.
    """
    return names.get(ROLES.get(task or "", (task or "",))[0])


def prompt_of(spec: ModelSpec, task: str | None = None, instruction: str | None = None, name: str | None = None) -> str:
    """What goes before a text: the prompt called `name`, else that of the task or instruction, else the model's default.

    A name is the checkpoint's own prompt of that name, as in sentence-transformers, else the task that it stands for. A task's
    prompt is the recipe's, else the one that the checkpoint names for it, else our wording in the recipe's template. As in
    sentence-transformers, the default does not stand in for a missing query or document prompt. Raises UsageError for an
    unknown name or task, for a name beside an instruction, and for an instruction given to a model that takes none.
    """
    task = NAMES.get(task or "", task)
    if name is not None:
        if instruction is not None:
            raise UsageError("prompt_name and instruction both say what goes before a text; give one")
        if spec.prompt_names.get(name) or (name in spec.prompt_names and not spec.adapters):
            return spec.prompt_names[name]
        if not knows_prompt(spec, name):
            known = dict.fromkeys((*spec.prompt_names, *NAMES, *TASKS))
            raise UsageError(f"prompt_name {name!r:.100} unknown ({', '.join(known)})")
        task = NAMES.get(name, name)
    if spec.colbert is not None and task in (None, *TASKS) and instruction is None:
        return spec.prompt_names.get("query" if is_query(task) else "document", "")
    own = prompt_for(spec.prompts, task, instruction)
    if instruction is not None or task in spec.prompts:
        return own
    named = named_for(spec.prompt_names, task)
    if not named and spec.adapters and task is not None:  # its prompts have the names of its tasks
        named = spec.prompt_names.get(SAME.get(task, task))
    if named is not None:
        return named
    if task in ROLES or (task is not None and TEMPLATE in spec.prompts):
        return own
    return spec.prompt_names.get(spec.default_prompt, "")
