// Shows the API's description in Swagger UI, whose bundle was loaded before.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null });
