"""Text to tokens to streams of segments: pure functions and files, no Lightning."""

from lmrecipes.data.hub import HubRepository, TableFolder
from lmrecipes.data.sources import Folder, Source
from lmrecipes.data.streams import Streams
from lmrecipes.data.tokenizing import Tokenizing
from lmrecipes.data.vocabularies import Vocabulary, load_vocabulary

__all__ = ["Folder", "HubRepository", "Source", "Streams", "TableFolder", "Tokenizing", "Vocabulary", "load_vocabulary"]
