// A stdio function: the request comes on stdin, the response goes to stdout.
// This is how functions are written for Alyx; here it runs as it is.

interface FunctionRequest {
  request_id: string;
  function: string;
  input: { name?: string };
}

const request: FunctionRequest = JSON.parse(await Bun.stdin.text());
const name = request.input.name ?? "World";

console.log(
  JSON.stringify({
    request_id: request.request_id,
    success: true,
    output: {
      message: `Hello, ${name}! (from Bun)`,
      runtime: "bun",
      version: Bun.version,
    },
  }),
);
