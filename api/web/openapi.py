"""Write the API's OpenAPI document, from which the pages' types are made; no chain is needed."""

import json
import sys

from fastapi.openapi.utils import get_openapi

from api.http import router

json.dump(get_openapi(title="Tribute", version="1", routes=router.routes), sys.stdout)
