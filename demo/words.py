"""Make up customers, cities, articles and small talk from a seed.

All invented here; awkward values (apostrophes, hyphens, accents) are there on purpose, and a name
that begins with another customer's whole name, so that almost the right one is the wrong one.
"""

import random
import unicodedata


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


FIRST = _list(
    "Amara|Anke|Bao|Beatriz|Björn|Chidi|Clara|Dmitri|Élodie|Emeka|Farid|Freya|Gürkan|Hana|Ines|"
    "Ivo|Jelena|Jo|Kaito|Lucía|Maëlle|Marek|Mira|Nadia|Nils|Oona|Otto|Paulo|Priya|Rafał|Rosa|"
    "Samir|Siobhán|Søren|Tomás|Ursula|Vera|Wanjiru|Yusuf|Zoë"
)
LAST = _list(
    "Abbott|Achterberg|Anand|Bell|Brandão|Castillo|D'Angelo|de la Cruz|Eklund|Fischer|Garnier|"
    "Håkansson|Hart|Ibsen|Jónsdóttir|Kowalska|Lind|MacLeod|Marchetti|Müller|Nakamura|N'Diaye|"
    "Nguyễn|O'Neil|Okafor|Petrov|Quinn|Rossi|Saint-Clair|Şahin|Tanaka|Ueda|van Dijk|Vogel|"
    "Weiß|Wójcik|Yilmaz|Zhang"
)
CITIES = _list(
    "Aarhus|Aix-en-Provence|Åre|Bergen|Białystok|Bruges|Cádiz|Cork|Den Bosch|Évora|Freiburg|"
    "Gävle|Ghent|Graz|Győr|Halle (Saale)|'s-Hertogenbosch|Innsbruck|L'Aquila|La Rochelle|Leeds|"
    "Liège|Łódź|Malmö|Nîmes|Odense|Plzeň|Porto|Saint-Étienne|São Bento|St. Gallen|Tampere|"
    "Trieste|Utrecht|Vaduz|Zürich"
)
ARTICLES = _list(
    "Ash stool|Beech bench|Cork board|Desk lamp|Elm shelf|Felt screen|Filing box|Glass jug|"
    "Linen blind|Oak table|Pine chair|Reed basket|Steel trolley|Wall clock|Wool rug"
)
HOSTS = ("post.example", "mail.example", "studio.example", "works.example", "hus.example")
WISHES = (
    "Please ring before delivery.",
    "No hurry, any day next month is fine.",
    "Side entrance, behind the bakery.",
    "Same as last year, if you still make it.",
    "The lift is out of order: second floor.",
    "Leave it with the neighbour at number 9.",
    "Could you send a sample of the finish?",
    "Invoice to the office, goods to the workshop.",
)
_WHO = ("the carrier", "the printer", "Ola", "the night shift", "the landlord", "the new trainee")
_WHAT = ("about the ramp", "for the spare key", "before lunch", "about Friday", "for the invoice")
_TODO = ("call", "thank", "remind", "ask", "write to")
NEWS = (
    (
        "The new loading ramp opens in May",
        "Two lorries can unload at once, and the yard will be closed on the last two Saturdays of "
        "April.\nVisitors please use the gate in the lane behind the workshop. The bell rings "
        "in the office, not in the yard, so give us a minute to come down.",
    ),
    (
        "Wool comes from a second mill",
        "A mill in the hills joins as a second source. Colours stay the same; the first bales "
        "arrive in autumn and are kept apart until the dye has been checked.\nSamples lie in the "
        "second drawer. Please put them back in the order you found them.",
    ),
    (
        "Canteen: soup is back on Thursdays",
        "By popular demand, and with bread from next door. Bring your own bowl and save ten cents, "
        "which go to the trip in September.\nThe cook asks for recipes: no more than nine "
        "ingredients, and one line about where it comes from.",
    ),
    (
        "Fire drill went well",
        "Everyone was out in under four minutes. The door of the paint store stuck again and has "
        "been planed; please do not prop it open.\nThe next drill is not announced.",
    ),
    (
        "A word about the old catalogue",
        "Some customers still order from the green catalogue. Its numbers are no longer valid, the "
        "articles mostly are.\nWhen in doubt, ask before you promise. A copy with the new numbers "
        "written in hangs beside the telephone.",
    ),
)
ARCHIVE = (
    "Care of oiled oak",
    "Delivery times in winter",
    "How to fold the felt screen",
    "Returns and repairs",
    "Who signs for the carrier",
    "Lamp bulbs and fittings",
    "Price list of last spring",
    "Packing glass for the train",
)


def chance(*parts: object) -> random.Random:
    """Draw the same numbers for the same parts, whatever else was drawn before."""
    return random.Random("/".join(str(part) for part in parts))  # noqa: S311 - play, not secrets


def names(rng: random.Random, num: int) -> list[str]:
    """Draw different people."""
    found: list[str] = []
    while len(found) < num:
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        if name not in found:
            found.append(name)
    return found


def longer(rng: random.Random, name: str) -> str:
    """Make up somebody whose name begins with this whole name."""
    return f"{name}-{rng.choice([last for last in LAST if last.isalpha()])}"


def mail(rng: random.Random, name: str) -> str:
    """Write an address a browser accepts: letters without accents, apostrophes kept."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss").replace("ø", "o"))
    plain = plain.replace("ł", "l")
    ascii_name = plain.encode("ascii", "ignore").decode()
    return f"{rng.choice('._-').join(ascii_name.split())}@{rng.choice(HOSTS)}"


def note(rng: random.Random) -> str:
    """Write a line one might jot down at work."""
    return f"{rng.choice(_TODO)} {rng.choice(_WHO)} {rng.choice(_WHAT)}"
