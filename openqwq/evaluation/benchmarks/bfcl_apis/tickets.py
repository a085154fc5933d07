"""TicketAPI: a queue of support tickets."""

from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import ApiError, require

Result = dict[str, Any]
EDITABLE = ("title", "description", "status", "priority")


class Tickets:
    """The queue in the order of creation, and who is logged in."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.ticket_queue: list[Result] = config.get("ticket_queue", [])
        self.ticket_counter: int = config.get("ticket_counter", 1)
        self.current_user: str | None = config.get("current_user")

    def _find(self, ticket_id: int) -> Result:
        for ticket in self.ticket_queue:
            if ticket["id"] == ticket_id:
                return ticket
        raise ApiError(f"Ticket with ID {ticket_id} not found.")

    def _ticket_login(self, username: str, password: str) -> Result:
        require(username and password, "Give a user name and a password.")
        self.current_user = username
        return {"success": True}

    def _ticket_get_login_status(self) -> Result:
        return {"login_status": bool(self.current_user)}

    def _logout(self) -> Result:
        was_in, self.current_user = bool(self.current_user), None
        return {"success": was_in}

    def _create_ticket(self, title: str, description: str = "", priority: int = 1) -> Result:
        require(self.current_user, "User must be logged in to create a ticket.")
        require(1 <= priority <= 5, "Priority must be from 1 to 5.")
        ticket = {
            "id": self.ticket_counter,
            "title": title,
            "description": description,
            "status": "Open",
            "priority": priority,
            "created_by": self.current_user,
        }
        self.ticket_queue.append(ticket)
        self.ticket_counter += 1
        return dict(ticket)

    def _get_ticket(self, ticket_id: int) -> Result:
        return dict(self._find(ticket_id))

    def _close_ticket(self, ticket_id: int) -> Result:
        ticket = self._find(ticket_id)
        require(ticket.get("status") != "Closed", f"Ticket {ticket_id} is already closed.")
        ticket["status"] = "Closed"
        return {"status": f"Ticket {ticket_id} has been closed successfully."}

    def _resolve_ticket(self, ticket_id: int, resolution: str) -> Result:
        ticket = self._find(ticket_id)
        require(ticket.get("status") != "Resolved", f"Ticket {ticket_id} is already resolved.")
        ticket |= {"status": "Resolved", "resolution": resolution}
        return {"status": f"Ticket {ticket_id} has been resolved successfully."}

    def _edit_ticket(self, ticket_id: int, updates: Result) -> Result:
        ticket = self._find(ticket_id)
        unknown = [name for name in updates if name not in EDITABLE]
        require(not unknown, f"Cannot change {', '.join(unknown)}.")
        ticket |= updates
        return {"status": f"Ticket {ticket_id} has been updated successfully."}

    def _get_user_tickets(self, status: str | None = None) -> list[Result]:
        require(self.current_user, "User must be logged in to view tickets.")
        own = [t for t in self.ticket_queue if t.get("created_by") == self.current_user]
        if status in (None, "None"):
            return own
        return [t for t in own if str(t.get("status")).lower() == str(status).lower()]
