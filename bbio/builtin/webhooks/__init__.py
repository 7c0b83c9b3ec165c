"""Webhooks: a consumer that posts events to other servers."""

from bbio.builtin.webhooks.webhook import Webhook, WebhookRefused

__all__ = ["Webhook", "WebhookRefused"]
