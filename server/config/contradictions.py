"""Settings that are each well-formed, and cannot be used together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.config.redis_url import Form, parse_redis_url

if TYPE_CHECKING:
    from server.config.settings import Config


def find_contradiction(config: Config) -> str | None:
    """Return what is wrong, in one line that names the setting; None: nothing."""
    return _of_webhooks(config) or _of_redis(config) or _of_storage(config)


def _of_webhooks(config: Config) -> str | None:
    if (config.webhook_url or config.webhook_hosts or config.usage_webhook_url) and not config.webhook_secrets:
        return "TRYON_WEBHOOK_SECRET must be set where there are webhooks; `openssl rand -base64 32` makes one"
    if (config.webhook_url or "").startswith("http:") and not config.webhook_private:
        return "TRYON_WEBHOOK_URL: http needs TRYON_WEBHOOK_PRIVATE=yes"
    if (config.usage_webhook_url or "").startswith("http:") and not config.webhook_private:
        return "TRYON_USAGE_WEBHOOK_URL: http needs TRYON_WEBHOOK_PRIVATE=yes"
    return None


def _of_redis(config: Config) -> str | None:
    if config.redis_url and not config.queue_redis_url and parse_redis_url(config.redis_url).form is Form.CLUSTER:
        return (
            "TRYON_QUEUE_REDIS_URL must be set where TRYON_REDIS_URL is a cluster: "
            "the queue needs a single server, or Sentinels"
        )
    return None


def _of_storage(config: Config) -> str | None:
    if config.presigned and config.storage_url is None:
        return "TRYON_PRESIGNED=on needs a bucket: set TRYON_STORAGE_URL"
    return None
