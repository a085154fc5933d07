"""MessageAPI: a workspace whose users send one another messages."""

from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import require, seeded

DEFAULT_USERS = {"Alice": "USR001", "Bob": "USR002", "Catherine": "USR003", "Daniel": "USR004"}
DEFAULT_INBOX = [
    {"USR002": "My name is Alice. I want to connect."},
    {"USR003": "Could you upload the file?"},
    {"USR004": "Could you upload the file?"},
]
Result = dict[str, Any]


class Messages:
    """`inbox` lists what the current user sent, each entry by its receiver, the latest last."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.user_map: dict[str, str] = config.get("user_map", dict(DEFAULT_USERS))
        self.user_count: int = config.get("user_count", len(self.user_map))
        self.inbox: list[Result] = config.get("inbox", [dict(entry) for entry in DEFAULT_INBOX])
        self.message_count: int = config.get("message_count", 3)
        self.current_user: str | None = config.get("current_user")
        self._ids = seeded(200191)

    def _require_login(self) -> None:
        require(self.current_user, "No user is currently logged in.")

    def _known(self, user_id: str) -> bool:
        return user_id in self.user_map.values()

    def _list_users(self) -> Result:
        return {"user_list": list(self.user_map)}

    def _get_user_id(self, user: str) -> Result:
        require(user in self.user_map, f"User '{user}' not found in the workspace.")
        return {"user_id": self.user_map[user]}

    def _message_login(self, user_id: str) -> Result:
        if not self._known(user_id):
            return {"login_status": False, "message": f"User ID '{user_id}' not found."}
        self.current_user = user_id
        return {"login_status": True, "message": f"User '{user_id}' logged in successfully."}

    def _message_get_login_status(self) -> Result:
        return {"login_status": bool(self.current_user)}

    def _send_message(self, receiver_id: str, message: str) -> Result:
        self._require_login()
        require(self._known(receiver_id), f"Receiver ID '{receiver_id}' not found.")
        self.inbox.append({receiver_id: message})
        self.message_count += 1
        return {
            "sent_status": True,
            "message_id": self._ids.randint(10000, 99999),
            "message": f"Message sent to '{receiver_id}' successfully.",
        }

    def _delete_message(self, receiver_id: str) -> Result:
        self._require_login()
        for index in reversed(range(len(self.inbox))):
            if receiver_id in self.inbox[index]:
                del self.inbox[index]
                text = f"Receiver {receiver_id}'s latest message deleted successfully."
                return {"deleted_status": True, "receiver_id": receiver_id, "message": text}
        text = f"No message to {receiver_id} found."
        return {"deleted_status": False, "receiver_id": receiver_id, "message": text}

    def _view_messages_sent(self) -> Result:
        self._require_login()
        sent: dict[str, list[Any]] = {}
        for entry in self.inbox:
            for receiver, message in entry.items():
                sent.setdefault(receiver, []).append(message)
        return {"messages": sent}

    def _add_contact(self, user_name: str) -> Result:
        require(user_name not in self.user_map, f"User name '{user_name}' already exists.")
        self.user_count += 1
        user_id = f"USR{self.user_count:03d}"
        self.user_map[user_name] = user_id
        text = f"Contact '{user_name}' added successfully."
        return {"added_status": True, "user_id": user_id, "message": text}

    def _search_messages(self, keyword: str) -> Result:
        self._require_login()
        found = [
            {"receiver_id": receiver, "message": message}
            for entry in self.inbox
            for receiver, message in entry.items()
            if keyword.lower() in str(message).lower()
        ]
        return {"results": found}

    def _get_message_stats(self) -> Result:
        self._require_login()
        contacts = {receiver for entry in self.inbox for receiver in entry}
        return {"stats": {"received_count": len(self.inbox), "total_contacts": len(contacts)}}
