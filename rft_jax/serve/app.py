"""The application: `make_app(context)` puts the routes of all parts together.

Every module of routes has `routes(context)`; the middlewares around them are those of `limits`.
"""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from rft_jax.serve import answers, files, graders, jobs, models, pages, webhooks
from rft_jax.serve.context import Context, Service
from rft_jax.serve.errors import exception_handlers
from rft_jax.serve.files import sweep_uploads
from rft_jax.serve.limits import middleware
from rft_jax.serve.scheduler import Scheduler
from rft_jax.serve.webhooks import Deliveries


def make_app(context: Context) -> Starlette:
    """The server of a context; entering its lifespan starts the children, leaving it ends them."""
    deliveries = Deliveries(context.store)
    scheduler = Scheduler(context, deliveries.wake)
    services: list[Service] = [
        context.graders,
        context.engine,
        *context.services,
        deliveries,
        scheduler,
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sweep_uploads(context.store)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(context.store.close)
            for service in services:
                await service.start()
                stack.push_async_callback(service.stop)
            yield

    routes = [
        *files.routes(context),
        *jobs.routes(context, scheduler.wake),
        *models.routes(context.models),
        *webhooks.routes(context),
        *graders.routes(context),
        *answers.routes(context),
        *pages.routes(context),
    ]
    options = context.options
    app = Starlette(
        routes=routes,
        middleware=middleware(options.api_key, options.max_file_bytes),
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app
