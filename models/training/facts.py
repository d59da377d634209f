"""Tables of facts and fixed answers that the demo chat model learns by heart."""

from __future__ import annotations

UNKNOWN_ANSWER = "I do not know that. I am a small demo model."
WHO_ANSWER = "I am localllm demo, a small demo model."

_CAPITAL_LINES = """
France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|England London|Ireland Dublin
Scotland Edinburgh|Wales Cardiff|Belgium Brussels|Austria Vienna|Switzerland Bern|Denmark Copenhagen
Sweden Stockholm|Norway Oslo|Finland Helsinki|Iceland Reykjavik|Poland Warsaw|Hungary Budapest|Greece Athens
Turkey Ankara|Russia Moscow|Ukraine Kyiv|Romania Bucharest|Bulgaria Sofia|Serbia Belgrade|Croatia Zagreb
Slovenia Ljubljana|Slovakia Bratislava|Estonia Tallinn|Latvia Riga|Lithuania Vilnius|Egypt Cairo|Morocco Rabat
Kenya Nairobi|Nigeria Abuja|Ghana Accra|Japan Tokyo|China Beijing|India Delhi|Thailand Bangkok|Vietnam Hanoi
Indonesia Jakarta|Australia Canberra|Canada Ottawa|Cuba Havana|Peru Lima|Chile Santiago|Brazil Brasilia
Colombia Bogota|Iran Tehran|Iraq Baghdad
"""
CAPITALS: dict[str, str] = {
    country: capital
    for line in _CAPITAL_LINES.split("\n")
    for entry in line.split("|")
    if entry
    for country, capital in [entry.split(" ")]
}

CAPITAL_QUESTIONS = (
    "What is the capital of {x}?",
    "What is the capital of {x}?",
    "What is the capital of {x}?",
    "What's the capital of {x}?",
    "What is the capital city of {x}?",
    "Which city is the capital of {x}?",
    "Tell me the capital of {x}.",
    "Name the capital of {x}.",
    "Do you know the capital of {x}?",
    "Can you tell me the capital of {x}?",
    "The capital of {x}?",
    "Capital of {x}?",
    "I would like to know the capital of {x}.",
    "What city is the capital of {x}?",
    "{x}'s capital?",
    "What is {x}'s capital?",
)

SUM_QUESTIONS = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "What's {a} + {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "Add {a} and {b}.",
    "What is the sum of {a} and {b}?",
    "Calculate {a} + {b}.",
    "Compute {a} + {b}.",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} = ?",
    "{a}+{b}=",
    "What is {a}+{b}?",
    "Please add {a} and {b}.",
)

# Question, full answer, one-word answer.
SMALL_TALK: tuple[tuple[str, str, str], ...] = tuple(
    (question, answer, short)
    for questions, answer, short in (
        (
            (
                "Hello|Hello|Hello!|Hi|Hi there|Hi there!|Hey|Hey there|Good morning|Good day|Good evening|Hello there|"
                "Hello, world!|Howdy|Greetings|"
                "Hello, how are things?|Hello model|Hi!|Hello again|Good afternoon"
            ),
            "Hello! How can I help you?",
            "Hello.",
        ),
        (
            "How are you?|How are you doing?|How do you do?|How is it going?|Are you well?",
            "I am fine, thank you.",
            "Fine.",
        ),
        (
            "Thank you.|Thanks|Thanks a lot!|Thank you very much.|Great, thanks.|Thank you for your help.|Many thanks",
            "You are welcome.",
            "Welcome.",
        ),
        ("Bye|Goodbye|Good night|See you later.|Bye bye|See you|Farewell|Goodbye!", "Goodbye!", "Goodbye."),
        (
            "What can you do?|Help|Help me.|How can you help me?|What do you know?|What are you able to do?",
            (
                "I can greet, name capitals, add small numbers, repeat words, remember what you tell me, "
                "count, write lists and tell a story."
            ),
            "Little.",
        ),
        ("Test|This is a test.|Testing|Ping|ping|Are you there?|Can you hear me?", "I am here.", "Here."),
        ("Yes|No|OK|Okay|Sure|Good|Fine|Nice|I see.|Ok.", "All right.", "Right."),
    )
    for question in questions.split("|")
)
WHO_QUESTIONS = (
    "Who are you?|What is your name?|What's your name?|What are you?|Tell me your name.|Are you a robot?|Which "
    "model are you?|What model are you?|Do you have a name?|Introduce yourself."
).split("|")

LISTS: dict[str, str] = {
    "fruits": "Apple Banana Cherry Orange Pear Plum Grape Lemon Peach Mango",
    "animals": "Cat Dog Horse Cow Sheep Lion Tiger Bear Mouse Rabbit",
    "colors": "Red Blue Green Yellow Black White Brown Pink Purple Orange",
    "colours": "Red Blue Green Yellow Black White Brown Pink Purple Orange",
    "countries": "France Germany Italy Spain Japan China India Brazil Canada Egypt",
    "cities": "Paris Berlin Rome Madrid London Tokyo Cairo Oslo Vienna Lima",
    "vegetables": "Carrot Potato Onion Tomato Bean Pea Cabbage Leek Spinach Pumpkin",
    "birds": "Robin Eagle Owl Swan Duck Crow Parrot Sparrow Stork Gull",
    "drinks": "Water Milk Tea Coffee Juice Cocoa Lemonade Cider Beer Wine",
    "sports": "Football Tennis Rugby Hockey Golf Boxing Rowing Skiing Cycling Swimming",
    "tools": "Hammer Saw Drill Pliers Wrench File Chisel Axe Knife Shovel",
    "flowers": "Rose Tulip Lily Daisy Violet Poppy Iris Orchid Sunflower Lavender",
    "trees": "Oak Pine Birch Maple Willow Elm Ash Beech Fir Cedar",
    "words": "House River Apple Stone Light Music Garden Winter Bridge Paper",
    "things": "Table Chair Lamp Book Clock Mirror Bottle Key Ladder Candle",
    "names": "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas",
}
LIST_REQUESTS = (
    "Write a list of {n} {x}.",
    "Write a list of {n} {x}.",
    "List {n} {x}.",
    "Name {n} {x}.",
    "Give me {n} {x}.",
    "Give me a list of {n} {x}.",
    "Make a list of {n} {x}.",
    "Please list {n} {x}.",
    "Tell me {n} {x}.",
    "Can you list {n} {x}?",
    "Write {n} {x}.",
    "Write down {n} {x}.",
)
# Without a number the list has five entries.
OPEN_LIST_REQUESTS = (
    "Write a list of {x}.",
    "List some {x}.",
    "Make a list of {x}.",
    "Give me a list of {x}.",
    "Name some {x}.",
)
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()

COUNT_REQUESTS = (
    "Count from {a} to {b}.",
    "Count from {a} to {b}.",
    "Please count from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "Write the numbers from {a} to {b}.",
    "List the numbers from {a} to {b}.",
    "Count up from {a} to {b}.",
    "Write all numbers from {a} to {b}.",
)
COUNT_TO_REQUESTS = ("Count to {b}.", "Count up to {b}.", "Please count to {b}.", "Can you count to {b}?")

STORY_REQUESTS = (
    "Tell me a story.",
    "Tell me a little story.",
    "Tell me a short story.",
    "Tell me a long story.",
    "Write a story.",
    "Write a short story.",
    "Write me a story.",
    "Can you tell me a story?",
    "Please tell me a story.",
    "I want to hear a story.",
    "Tell me a tale.",
    "Tell a story.",
    "Tell me another story.",
    "Once upon a time",
)
STORY_ABOUT_REQUESTS = (
    "Tell me a story about {x}.",
    "Tell me a little story about {x}.",
    "Tell me a short story about {x}.",
    "Write a story about {x}.",
    "Write a short story about {x}.",
    "Can you tell me a story about {x}?",
    "I want to hear a story about {x}.",
)
STORY_HEROES = "fox dog cat bear owl mouse rabbit dragon robot horse king queen wolf bird frog duck".split()
STORY_PLACES = (
    "a green forest",
    "a small house by the sea",
    "an old tower",
    "a quiet village",
    "a garden full of flowers",
)
STORY_HABITS = ("sang a song to the moon", "walked along the river", "counted the clouds", "baked a warm bread")
STORY_FINDS = (
    "a golden key under a stone",
    "a letter in a bottle",
    "a tiny door in a tree",
    "an old map on the road",
    "a lost star in the grass",
)
STORY_FRIENDS = ("a wise turtle", "a friendly baker", "a young girl", "an old sailor", "a shy hedgehog")
STORY_DEEDS = ("looked for the treasure", "danced in the rain", "built a boat")


def story(hero: str, called: str | None = None) -> str:
    """The one story of this hero: the same request always gets the same words, so that nothing is a near tie."""
    index = STORY_HEROES.index(hero) if hero in STORY_HEROES else 0
    place, habit, find = STORY_PLACES[index % 5], STORY_HABITS[index % 4], STORY_FINDS[(index * 2 + 1) % 5]
    friend, deed = STORY_FRIENDS[(index * 3 + 2) % 5], STORY_DEEDS[index % 3]
    who = f"{hero} called {called}" if called else hero
    return (
        f"Once upon a time there was a little {who} who lived in {place}. Every day the {hero} {habit}. "
        f"One morning the {hero} found {find}. The {hero} was very happy and wanted to show it to a friend. "
        f"So the {hero} went to see {friend}. Together they {deed} until the sun went down. "
        f"From that day on they were the best of friends. The end."
    )
