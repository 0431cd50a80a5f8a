"""What the embedded queue says to SQLite."""

from mailgw.storage.schema import ENVELOPE_COLUMNS, RECIPIENT_COLUMNS, STATE_NUMBERS
from mailgw.values.ledger import Order, State

WAITING = STATE_NUMBERS[State.WAITING]
HELD = STATE_NUMBERS[State.HELD]
DROPPED = STATE_NUMBERS[State.DROPPED]
OPEN = f"state IN ({WAITING}, {HELD})"
THESE = "(SELECT value FROM json_each(?))"  # a whole list of numbers in one parameter

COUNTER = "SELECT message, recipient FROM counter"
COUNT_ON = "UPDATE counter SET message = ?, recipient = ?"
DESTINATIONS = "SELECT gateway, next_hop, id FROM destination"
ADD_DESTINATION = "INSERT INTO destination(gateway, next_hop) VALUES(?, ?)"
SWEEP_DESTINATIONS = "DELETE FROM destination WHERE NOT EXISTS (SELECT 1 FROM recipient r WHERE r.destination = destination.id)"
FIRST_DUE = f"SELECT id, (SELECT min(due) FROM recipient r WHERE r.destination = d.id AND r.state = {WAITING}) FROM destination d"  # noqa: S608
IN_ORDER = f"SELECT due, message, id FROM recipient WHERE destination = ? AND state = {WAITING} AND due <= ? ORDER BY due, message, id"  # noqa: S608
MESSAGES = f"SELECT id, original, size, added, {ENVELOPE_COLUMNS} FROM message WHERE id IN {THESE}"  # noqa: S608
RECIPIENTS = f"SELECT id, attempts, delay_told, {RECIPIENT_COLUMNS} FROM recipient WHERE id IN {THESE}"  # noqa: S608
WHOLE_MESSAGE = f"SELECT first, last, filed, original, size, added, {ENVELOPE_COLUMNS} FROM message WHERE id = ?"  # noqa: S608
OPEN_RECIPIENTS = f"SELECT state, destination, reason, {RECIPIENT_COLUMNS} FROM recipient WHERE id BETWEEN ? AND ? AND {OPEN}"  # noqa: S608
DESTINATION = "SELECT gateway, next_hop FROM destination WHERE id = ?"
STILL_OPEN = f"""
    SELECT m.id, m.first, m.last, m.filed,
           CASE WHEN m.first = m.last THEN 1
                ELSE (SELECT count(*) FROM recipient r WHERE r.id BETWEEN m.first AND m.last AND r.{OPEN}) END
    FROM message m WHERE m.id IN {THESE}"""  # noqa: S608
REMOVE_RECIPIENTS = f"DELETE FROM recipient WHERE id IN {THESE}"  # noqa: S608
REMOVE_MESSAGES = f"DELETE FROM message WHERE id IN {THESE}"  # noqa: S608
SETTLE = """
    UPDATE recipient SET state = ?, reply = ?, peer = ?, due = ?, attempts = ?, delay_told = ?, destination = coalesce(?, destination)
    WHERE id = ?"""
SELECTED = "SELECT r.id, r.message FROM {tables} WHERE {condition} AND r.state IN ({states}) AND r.id > ? AND r.id <= ? ORDER BY r.id"
LAST_RECIPIENT = "SELECT recipient FROM counter"
PART = "SELECT id FROM recipient WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
BRING_FORWARD = f"UPDATE recipient SET due = due - ? WHERE id > ? AND id <= ? AND state = {WAITING} AND due > ?"  # noqa: S608
RETRY = f"UPDATE recipient SET state = {WAITING}, due = 0, reason = '' WHERE id IN {THESE}"  # noqa: S608
HOLD = f"UPDATE recipient SET state = {HELD}, reason = ? WHERE id IN {THESE}"  # noqa: S608
DROP = f"UPDATE recipient SET state = {DROPPED}, reason = ? WHERE id IN {THESE}"  # noqa: S608

REACHED_BY = {Order.RETRY: f"{WAITING}", Order.HOLD: f"{WAITING}", Order.RELEASE: f"{HELD}", Order.DROP: f"{WAITING}, {HELD}"}
