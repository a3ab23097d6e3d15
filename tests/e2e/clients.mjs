// Lives one user's first minute through the generated client: argv = client module, api_url, address, password, serial.
const [module, baseUrl, email, password, serial] = process.argv.slice(2);
const { createClient, Session } = await import(module);

const anybody = createClient({ baseUrl });
const registered = await anybody.POST("/api/v1/auth/register", { body: { email, password, name: "A User" } });
const login = await anybody.POST("/api/v1/auth/login", { body: { email, password } });
const tokens = { access_token: "one that is over", refresh_token: login.data.data.refresh_token };
const karma = createClient({ baseUrl, fetch: new Session({ baseUrl, tokens }).fetch });
const created = await karma.POST("/api/v1/devices", {
  body: { name: "Robot", model: "EOS-3A", mac: "02:00:00:00:00:01", serial_number: serial },
});
const listed = await karma.GET("/api/v1/devices", { params: { query: { limit: 10 } } });
const missing = await karma.GET("/api/v1/devices/{device_id}", {
  params: { path: { device_id: registered.data.data.user.id } },
});
console.log(
  JSON.stringify({
    statuses: [registered, login, created, listed, missing].map((each) => each.response.status),
    serials: listed.data.data.devices.map((device) => device.serial_number),
    code: missing.error.error.code,
  }),
);
