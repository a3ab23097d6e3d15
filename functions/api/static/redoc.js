// Shows the API's description in Redoc, whose bundle was loaded before.
Redoc.init("/openapi.json", { hideLoading: true }, document.getElementById("page"));
