"""Word lists and made-up words that the demo models' training text is built from."""

from __future__ import annotations

import random
import zlib

_ONSETS = (
    "b c d f g h j k l m n p r s t v w y z br ch cl cr dr fl fr gl gr kr ph pl pr qu sh sk sl sn sp st th tr vr zh"
).split() + [""]
_VOWELS = "a e i o u a e i o u ai ea ee ei ia io oa oo ou ua y".split()
_CODAS = ["", "", "", "", ""] + "n r l s m t k d nd rt st x ck ll ss ng rk b p".split()
# Rough English letter frequencies: unpronounceable strings, so that every letter piece gets copied in training.
_LETTERS = "eeeeeetttttaaaaaoooooiiiiinnnnnssssshhhhrrrrrddddllllccccuuummmmwwffggyyppbbvvkkjxqzjxqz"
_ACCENTED = "éèüöäñçøåîõšžłß"


def _is_heldout(core: str) -> bool:
    """One syllable core in eight never occurs in training words, only in held-out ones."""
    return zlib.crc32(core.encode()) % 8 == 0


_TRAIN_CORES = [o + v for o in _ONSETS for v in _VOWELS if not _is_heldout(o + v)]
_HELDOUT_CORES = [o + v for o in _ONSETS for v in _VOWELS if _is_heldout(o + v)]


def syllable_word(rng: random.Random, heldout: bool) -> str:
    """A pronounceable made-up word; held-out words share no syllable core with training words."""
    cores = _HELDOUT_CORES if heldout else _TRAIN_CORES
    count = rng.choices((1, 2, 3, 4), (2, 8, 7, 2))[0]
    return "".join(rng.choice(cores) + (rng.choice(_CODAS) if rng.random() < 0.6 else "") for _ in range(count))


def letter_word(rng: random.Random) -> str:
    """A string of letters without rule, now and then with an accent or a digit."""
    word = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 9)))
    roll = rng.random()
    if roll < 0.06:
        at = rng.randrange(len(word))
        word = word[:at] + rng.choice(_ACCENTED) + word[at + 1 :]
    elif roll < 0.12:
        word += str(rng.randint(0, 99))
    return word


def fragment_word(rng: random.Random) -> str:
    """Parts of common words joined, so that pieces which otherwise stand in fixed phrases only get copied too."""
    parts = []
    for _ in range(rng.choices((1, 2, 3), (2, 3, 2))[0]):
        word = rng.choice(rng.choice((NOUNS, ADJECTIVES, VERBS, COMMON_WORDS)))
        start = rng.randrange(max(1, len(word) - 2))
        parts.append(word[start : start + rng.randint(2, 6)])
    return "".join(parts)


def made_up_word(rng: random.Random, heldout: bool) -> str:
    """A word to copy, in lower case."""
    if heldout:
        return syllable_word(rng, True)
    roll = rng.random()
    if roll < 0.2:
        return letter_word(rng)
    if roll < 0.35:
        return fragment_word(rng)
    if roll < 0.45:
        return rng.choice(rng.choice((NOUNS, ADJECTIVES, VERBS, COMMON_WORDS)))
    return syllable_word(rng, False)


def proper_name(rng: random.Random, heldout: bool) -> str:
    """A made-up name: mostly capitalised, sometimes lower case, upper case or of two parts."""
    word = made_up_word(rng, heldout)
    roll = rng.random()
    if roll < 0.78:
        word = word.capitalize()
    elif roll < 0.83:
        word = word.upper()
    if rng.random() < 0.06:
        word += rng.choice((" ", "-")) + made_up_word(rng, heldout).capitalize()
    return word


def thing_name(rng: random.Random, heldout: bool) -> str:
    """A made-up or real thing of one or two words, in lower case."""
    if heldout:
        return syllable_word(rng, True)
    roll = rng.random()
    if roll < 0.72:
        return made_up_word(rng, False)
    if roll < 0.82:
        return rng.choice(NOUNS)
    if roll < 0.9:
        return rng.choice(COLOURS)
    return f"{rng.choice(ADJECTIVES)} {rng.choice((made_up_word(rng, False), rng.choice(NOUNS)))}"


def code_word(rng: random.Random, heldout: bool) -> str:
    """A pass word: a made-up word, digits, or both."""
    roll = rng.random()
    if roll < 0.2:
        return str(rng.randint(10, 99999))
    word = made_up_word(rng, heldout)
    if roll < 0.35:
        return f"{word}{rng.choice(('', '-', ' '))}{rng.randint(0, 999)}"
    return rng.choice((word, word, word.capitalize(), word.upper()))


COMMON_WORDS = (
    "hello world the quick fox lazy over under and but or not you your they we he she it this that these those what "
    "where when who why how yes no maybe please thank thanks sorry welcome goodbye alice bob carol david emma frank "
    "grace henry ivy jack kate liam mary nina oscar paul rose sam tom anna peter laura john maria test example magenta "
    "cyan amber scarlet one two three four five six seven eight nine ten twenty hundred thousand first second last"
).split()
COLOURS = "red blue green yellow black white brown pink purple orange grey silver gold violet turquoise".split()
ADJECTIVES = (
    "small big old new red blue green good bad long short warm cold happy sad quiet loud bright dark soft hard "
    "fast slow rich poor deep kind brave clever round heavy light sweet dry wet clean strange simple great early "
    "late high low open young free strong common modern famous important different possible best cheap"
).split()
NOUNS = (
    "cat dog bird horse cow sheep fish mouse tree flower house door window table chair lamp book paper pen letter "
    "song game ball boat ship car train plane road bridge river lake sea mountain hill forest garden field stone "
    "sand rain snow wind storm sun moon star night day morning winter summer bread cheese apple soup tea coffee "
    "milk sugar salt cake egg knife spoon cup plate bottle box bag key coin clock watch phone computer keyboard "
    "screen program file server model network robot machine engine wheel tool hammer nail rope shirt shoe hat coat "
    "ring king queen doctor teacher student farmer baker friend brother sister mother father child baby man woman "
    "school church market shop city village country island planet history science music art law money time "
    "question idea dream problem answer story poem picture film bicycle umbrella carpet mirror ladder candle "
    "violin guitar drum telescope football president language population weather recipe sentence function email "
    "meeting war peace energy water fire earth gas metal gold"
).split()
VERBS = (
    "make build write read sing draw paint cook bake wash clean find lose buy sell send carry break fix open close "
    "start stop learn teach explain describe compare translate summarise improve count play win grow plant cut "
    "throw catch hold push pull lift drive ride fly swim walk run climb jump sleep wake eat drink love hate fear "
    "need want use change choose check test install delete move"
).split()
TOPICS = (
    "quantum physics|black holes|the stock market|photosynthesis|machine learning|the French revolution|world "
    "history|chess openings|the meaning of life|climate change|dinosaurs|the solar system|programming in Python|"
    "Shakespeare|modern art|jazz|the internet|vaccines|electric cars|philosophy|gravity|evolution|the Roman empire|"
    "football|poetry|recursion|databases|neural networks|the speed of light|mathematics|cooking|gardening|space "
    "travel|taxes|your dreams|politics|love|the future|the past|this"
).split("|")
