"""Clutter for long-context scenarios: the same for everybody, far from what the task needs."""

from collections.abc import Sequence

from openqwq.evaluation.benchmarks.bfcl_apis.file_system import FileSystem
from openqwq.evaluation.benchmarks.bfcl_apis.messages import Messages
from openqwq.evaluation.benchmarks.bfcl_apis.posting import Posting
from openqwq.evaluation.benchmarks.bfcl_apis.trading import Trading
from openqwq.evaluation.benchmarks.bfcl_apis.travel import Travel
from openqwq.evaluation.benchmarks.bfcl_apis.vehicle import Vehicle

COUNT = 150
SENTENCE = "Entry {number} of the archive was kept for the record and needs no attention."


def lengthen(api: object, pictures: Sequence[str]) -> None:
    """Add clutter to what an API's functions return; APIs without lists stay as they are.

    `pictures` are files that a scenario wants removed from a directory: every one holds them.
    """
    texts = [SENTENCE.format(number=number) for number in range(COUNT)]
    match api:
        case FileSystem(root=root):
            files = {
                f"archive_{number:03}.log": {"type": "file", "content": text}
                for number, text in enumerate(texts)
            }
            top = next(iter(root.values()))["contents"]
            for node in top.values():
                if node["type"] == "directory":
                    node["contents"] |= {n: {"type": "file", "content": ""} for n in pictures}
            top |= files
        case Messages(inbox=inbox):
            inbox[:0] = [{"USR999": text} for text in texts]
        case Posting(comments=comments, tweets=tweets):
            for tweet_id in tweets:
                extra = [{"username": "archivist", "content": text} for text in texts]
                comments[tweet_id] = extra + comments.get(tweet_id, [])
        case Trading(transaction_history=history, stocks=stocks):
            history += [{"type": "fee", "amount": 0.0, "note": text} for text in texts]
            row = {"price": 1.0, "percent_change": 0.0, "volume": 0.0, "MA(5)": 1.0, "MA(20)": 1.0}
            stocks |= {f"ZZ{number:03}": dict(row) for number in range(COUNT)}
        case Travel(booking_record=bookings):
            bookings |= {
                f"archive_{number:03}": {"note": text} for number, text in enumerate(texts)
            }
        case Vehicle(car_info=info):
            info |= {f"record_{number:03}": text for number, text in enumerate(texts)}
