"""From text to batches: pure functions and files, no Lightning."""

from lmrecipes.data.corpora.tables import HubRepository, TableFolder
from lmrecipes.data.corpora.text_source import Folder, Source
from lmrecipes.data.objectives.streams import Streams
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.text_config import Tokenizing

__all__ = ["Folder", "HubRepository", "Source", "Streams", "TableFolder", "Tokenizing", "Vocabulary", "load_vocabulary"]
