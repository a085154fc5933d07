"""TwitterAPI: tweets, comments and followers of one authenticated user."""

from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import require

Result = dict[str, Any]


class Posting:
    """Tweets are keyed by their id; who is followed belongs to the configured user."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.username: str = config.get("username", "john")
        self.password: str = config.get("password", "john123")
        self.authenticated: bool = config.get("authenticated", False)
        self.tweets = {int(key): tweet for key, tweet in config.get("tweets", {}).items()}
        self.comments = {int(key): value for key, value in config.get("comments", {}).items()}
        self.retweets: dict[str, list[int]] = config.get("retweets", {})
        self.following_list: list[str] = config.get("following_list", ["alice", "bob"])
        self.tweet_counter: int = config.get("tweet_counter", 0)

    def _require_login(self) -> None:
        require(self.authenticated, "User not authenticated. Please authenticate first.")

    def _tweet(self, tweet_id: int) -> Result:
        require(tweet_id in self.tweets, f"Tweet with ID {tweet_id} not found.")
        tweet: Result = self.tweets[tweet_id]
        return tweet

    def _authenticate_twitter(self, username: str, password: str) -> Result:
        if (username, password) == (self.username, self.password):
            self.authenticated = True
            return {"authentication_status": True}
        return {"authentication_status": False}

    def _posting_get_login_status(self) -> Result:
        return {"login_status": bool(self.authenticated)}

    def _post_tweet(
        self, content: str, tags: list[str] | None = None, mentions: list[str] | None = None
    ) -> Result:
        self._require_login()
        tweet = {
            "id": self.tweet_counter,
            "username": self.username,
            "content": content,
            "tags": tags or [],
            "mentions": mentions or [],
        }
        self.tweets[self.tweet_counter] = tweet
        self.tweet_counter += 1
        return dict(tweet)

    def _retweet(self, tweet_id: int) -> Result:
        self._require_login()
        self._tweet(tweet_id)
        own = self.retweets.setdefault(self.username, [])
        if tweet_id in own:
            return {"retweet_status": "Already retweeted"}
        own.append(tweet_id)
        return {"retweet_status": "Successfully retweeted"}

    def _comment(self, tweet_id: int, comment_content: str) -> Result:
        self._require_login()
        self._tweet(tweet_id)
        entry = {"username": self.username, "content": comment_content}
        self.comments.setdefault(tweet_id, []).append(entry)
        return {"comment_status": "Comment added successfully"}

    def _mention(self, tweet_id: int, mentioned_usernames: list[str]) -> Result:
        self._tweet(tweet_id).setdefault("mentions", []).extend(mentioned_usernames)
        return {"mention_status": "Users mentioned successfully"}

    def _follow_user(self, username_to_follow: str) -> Result:
        self._require_login()
        if username_to_follow in self.following_list:
            return {"follow_status": False}
        self.following_list.append(username_to_follow)
        return {"follow_status": True}

    def _unfollow_user(self, username_to_unfollow: str) -> Result:
        self._require_login()
        if username_to_unfollow not in self.following_list:
            return {"unfollow_status": False}
        self.following_list.remove(username_to_unfollow)
        return {"unfollow_status": True}

    def _list_all_following(self) -> list[str]:
        self._require_login()
        return list(self.following_list)

    def _get_tweet(self, tweet_id: int) -> Result:
        return dict(self._tweet(tweet_id))

    def _get_user_tweets(self, username: str) -> list[Result]:
        return [tweet for tweet in self.tweets.values() if tweet.get("username") == username]

    def _search_tweets(self, keyword: str) -> list[Result]:
        wanted = keyword.lower()
        return [
            tweet
            for tweet in self.tweets.values()
            if wanted in " ".join([tweet.get("content", ""), *tweet.get("tags", [])]).lower()
        ]

    def _get_tweet_comments(self, tweet_id: int) -> list[Result]:
        self._tweet(tweet_id)
        return list(self.comments.get(tweet_id, []))

    def _get_user_stats(self, username: str) -> Result:
        following = self.following_list if username == self.username else []
        return {
            "tweet_count": len(self._get_user_tweets(username)),
            "following_count": len(following),
            "retweet_count": len(self.retweets.get(username, [])),
        }
