"""What the built-in sample is made of: for each task the sentence frames, and per label the words that point to it.

A frame's ``{slot}`` is filled from the words of a label, or, where the labels share it, from `Vocabulary.shared`.
Words are written between commas, and sentences between bars, so that a list of forty stays readable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """The words of one task.

    Attributes:
        evidence: frames with at least one slot that differs between the labels.
        filler: frames that say nothing about the label.
        labels: for each label its slots.
        shared: slots that are the same for all labels.
    """

    evidence: tuple[str, ...]
    filler: tuple[str, ...]
    labels: dict[str, dict[str, tuple[str, ...]]]
    shared: dict[str, tuple[str, ...]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(" ".join(sentence.split()) for sentence in text.split("|"))


EVERYWHERE = {
    "day": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": _words("January, March, April, June, August, October, December"),
    "when": _words(
        "yesterday, this morning, last week, on Monday, on Friday, in the spring, in the autumn, late at night"
    ),
    "number": _words("two, three, five, seven, nine, twelve, twenty, forty, sixty, ninety"),
    "place": _words("Lisbon, Oslo, Nairobi, Toronto, Kyoto, Lima, Vienna, Cairo, Dublin, Jakarta, Warsaw, Boston"),
    "person": _words("Anna, Omar, Lucia, Peter, Mei, Jonas, Fatima, Igor, Clara, David, Priya, Samuel"),
}

TOPICS = Vocabulary(
    evidence=_sentences(
        "The {who} {did} the {what} {when}. | In {place}, the {who} {did} the {what}. |"
        "The {what} surprised the {who} {when}. | Few people expected the {what}, but the {who} stayed calm. |"
        "Questions about the {what} remain, the {who} said. | {person} {did} the {what} in {month}. |"
        "The {who} spoke for {number} minutes about the {what}. | Nobody in {place} had {did} the {what} before. |"
        "The {who} from {place} was not available. | A second {who} then {did} the {what}."
    ),
    filler=_sentences(
        "More details are expected on {day}. | The news reached {place} {when}. |"
        "About {number} people came to see it. |"
        "{person} from {place} heard of it {when}. | It was the first time since {month}. |"
        "A longer report will follow in {month}. | The reaction in {place} was mixed. |"
        "Heavy rain delayed the talks {when}."
    ),
    labels={
        "Politics": {
            "who": _words(
                "senator, minister, mayor, governor, parliament, opposition, ambassador, president, delegate,chancellor"
            ),
            "did": _words("vetoed, debated, ratified, repealed, endorsed, amended, opposed, drafted, denounced"),
            "what": _words(
                "election, treaty, amendment, ballot, referendum, coalition, border law, constitution, embassy,"
                "tax reform, sanctions, cabinet"
            ),
        },
        "Sport": {
            "who": _words(
                "striker, goalkeeper, coach, sprinter, referee, swimmer, boxer, champion, cyclist, midfielder"
            ),
            "did": _words("won, missed, lost, trained for, entered, dominated, forfeited, celebrated, defended"),
            "what": _words(
                "cup final, penalty, tournament, marathon, semifinal, league title, relay, match, playoff, stadium,"
                "trophy, race"
            ),
        },
        "Science": {
            "who": _words(
                "physicist, astronomer, biologist, laboratory, chemist, geologist, botanist, researcher, zoologist,"
                "observatory"
            ),
            "did": _words(
                "measured, discovered, observed, sequenced, modelled, analysed, calculated, simulated, catalogued"
            ),
            "what": _words(
                "galaxy, enzyme, fossil, molecule, genome, asteroid, particle, vaccine, comet, bacteria, glacier,"
                "experiment"
            ),
        },
        "Business": {
            "who": _words(
                "retailer, bank, investor, shareholder, startup, airline, broker, factory, accountant, supplier"
            ),
            "did": _words("acquired, financed, sold, outsourced, audited, priced, liquidated, exported, insured"),
            "what": _words(
                "shares, merger, dividend, earnings, loan, revenue, stock offer, bankruptcy, invoice, warehouse,"
                "profit, brand"
            ),
        },
        "Culture": {
            "who": _words("novelist, orchestra, painter, actor, curator, violinist, ballet, sculptor, poet, singer"),
            "did": _words(
                "performed, composed, exhibited, rehearsed, painted, premiered, recorded, illustrated, staged"
            ),
            "what": _words(
                "symphony, novel, gallery, sculpture, opera, film, portrait, album, museum, theatre, poem, concert"
            ),
        },
    },
    shared={},
)

REVIEWS = Vocabulary(
    evidence=_sentences(
        "The {part} was {quality}. | The {part} of this {item} was {quality}. | We found the {part} {quality}. |"
        "{verdict}. | {person} called the {part} {quality} and the {item} {quality}. | In short, {verdict}. |"
        "The {part} {did} us from the first day. | That {quality} {item}, with its {quality} {part}! |"
        "After {number} weeks the {part} still {did} me."
    ),
    filler=_sentences(
        "I got the {item} in {month}. | We stayed with the {item} for {number} days. | {person} came along {when}. |"
        "The {item} is from {place}. | It was my first {item} in {number} years. | We used the {part} {when}. |"
        "The {part} is next to the {part}. | I chose the {item} because {person} has one."
    ),
    labels={
        "positive": {
            "quality": _words(
                "excellent, wonderful, superb, charming, reliable, comfortable, flawless, generous, spotless,"
                "brilliant, fantastic, perfect"
            ),
            "did": _words("impressed, pleased, delighted, charmed, rewarded, amazed, satisfied"),
            "verdict": _words(
                "I would come back at once, I recommend it to everyone, it was worth every coin, we will book again,"
                "five stars from me, it was a real treat, I love it, it beats all the others"
            ),
        },
        "neutral": {
            "quality": _words(
                "average, ordinary, acceptable, standard, plain, adequate, typical, fair, passable, usual, common,"
                "medium"
            ),
            "did": _words("served, suited, occupied, reached, followed, matched, concerned"),
            "verdict": _words(
                "it does the job, it is nothing special, it is what the picture shows, it is much like the others,"
                "I have no strong opinion, it was as expected, three stars from me, some will like it and some will not"
            ),
        },
        "negative": {
            "quality": _words(
                "awful, dreadful, flimsy, dirty, broken, useless, noisy, stale, overpriced, rude, terrible, faulty"
            ),
            "did": _words("disappointed, annoyed, failed, bored, frustrated, upset, cheated"),
            "verdict": _words(
                "it will never happen again, it was a waste of money, I sent it back, we left early, avoid it,"
                "one star from me, I regret it, it is worse than all the others"
            ),
        },
    },
    shared={
        "part": _words(
            "screen, battery, breakfast, room, staff, handle, sound, menu, bed, package, colour, service, coffee, seat"
        ),
        "item": _words("hotel, phone, kettle, restaurant, tent, lamp, train, camera, jacket, bicycle, radio, boat"),
    },
)

REQUESTS = Vocabulary(
    evidence=_sentences(
        "Could you {want} the {thing}? | The {thing} {trouble}. | I need somebody to {want} my {thing} {when}. |"
        "Is there a way to {want} the {thing}? | I have written about the {thing} {number} times. |"
        "My {item} is here but the {thing} {trouble}. | {person} told me that you {want} the {thing}. |"
        "It is about the {thing} of my {item}. | Since {day} the {thing} {trouble}."
    ),
    filler=_sentences(
        "I have been a customer since {month}. | My order is number {number}. | Please answer by {day}. |"
        "Thank you for your help. | I called {when} and nobody picked up. | I bought the {item} in {month}. |"
        "{person} at your shop in {place} knows me. | Hello, my name is {person}."
    ),
    labels={
        "refund": {
            "want": _words("pay back, reimburse, reverse, credit, return, compensate, deduct"),
            "thing": _words("charge, payment, receipt, deposit, card bill, price, fee, voucher, amount, money"),
            "trouble": _words(
                "was billed twice, is far too high, was taken by mistake, is more than agreed, cost me double"
            ),
        },
        "delivery": {
            "want": _words("track, redirect, ship, dispatch, reschedule, locate, send"),
            "thing": _words("parcel, courier, shipment, tracking page, box, van, letter, container, crate, postcode"),
            "trouble": _words(
                "never turned up, went to the wrong street, is stuck in the depot, was left in the rain, is late"
            ),
        },
        "account": {
            "want": _words("reset, unlock, verify, restore, update, activate, delete"),
            "thing": _words(
                "password, login, username, profile, email address, code, security question, pin, access, newsletter"
            ),
            "trouble": _words(
                "does not let me in, is not accepted, has expired, was blocked, shows the name of somebody else"
            ),
        },
        "repair": {
            "want": _words("fix, mend, replace, inspect, solder, clean, tighten"),
            "thing": _words("hinge, motor, cable, fuse, wheel, valve, switch, spring, pump, engine"),
            "trouble": _words("rattles loudly, leaks, is cracked, smells of smoke, came loose"),
        },
        "advice": {
            "want": _words("compare, recommend, suggest, explain, describe, judge, rate"),
            "thing": _words("size, model, gift, range, manual, recipe, design, version, material, style"),
            "trouble": _words(
                "confuses me, leaves me undecided, sounds good to me, may be too simple, would suit a beginner"
            ),
        },
    },
    shared={"item": REVIEWS.shared["item"]},
)

EMOTIONS = Vocabulary(
    evidence=_sentences(
        "I felt {feeling} {when}. | {body}. | {person} saw how {feeling} I was. | {cause} and {body}. |"
        "All of {day} I was {feeling}. | It began when {cause}. | {feeling} and {feeling}, I sat in the kitchen. |"
        "In {month}, {cause}. | {person} wrote that {cause}."
    ),
    filler=_sentences(
        "I wrote this down in {place}. | {person} sat beside me {when}. | That was in {month}. |"
        "We had been on the road for {number} hours. | The clock on the wall showed {number}. |"
        "Later I told {person} about it. | Outside, the street of {place} was quiet. | I remember that {day} well."
    ),
    labels={
        "joy": {
            "feeling": _words("cheerful, thrilled, delighted, glad, proud, merry, radiant, grateful, playful"),
            "body": _words(
                "I could not stop smiling, we danced in the kitchen, my heart sang, I laughed out loud,"
                "we hugged each other, I jumped up and down"
            ),
            "cause": _words(
                "my sister came home, the baby said a word, we won the raffle, the exam was passed, the roses opened,"
                "they planned a wedding"
            ),
        },
        "anger": {
            "feeling": _words("furious, annoyed, outraged, irritated, bitter, resentful, livid, hostile, offended"),
            "body": _words(
                "I slammed the door, my fists clenched, I shouted at the wall, my face turned red, I tore up the note,"
                "I kicked the bin"
            ),
            "cause": _words(
                "he lied to all of us, they blamed me for it, somebody stole my bike, she broke the promise again,"
                "the neighbour insulted us, they jumped the queue"
            ),
        },
        "fear": {
            "feeling": _words("terrified, anxious, nervous, frightened, uneasy, scared, panicked, tense, worried"),
            "body": _words(
                "my hands were shaking, I could hardly breathe, I hid under the blanket, my knees went weak,"
                "I did not dare to move, I ran for the exit"
            ),
            "cause": _words(
                "something scratched at the window, the lights went out, a stranger followed us,"
                "the ice cracked under us, the plane dropped, a snake lay on the path"
            ),
        },
        "sadness": {
            "feeling": _words("lonely, heartbroken, gloomy, miserable, tearful, mournful, hopeless, empty, homesick"),
            "body": _words(
                "I wept quietly, the tears kept coming, I stayed in bed, my throat felt heavy, I could not eat,"
                "I stared at the ceiling"
            ),
            "cause": _words(
                "the old dog died, she moved away for good, nobody came to the party, we buried grandfather,"
                "the last letter was lost, he forgot my birthday"
            ),
        },
    },
    shared={},
)
