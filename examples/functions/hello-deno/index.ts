// A stdio function: the request comes on stdin, the response goes to stdout.
// This is how functions are written for Alyx; here it runs as it is.

interface FunctionRequest {
  request_id: string;
  function: string;
  input: { name?: string };
}

let requestId = "unknown";
try {
  const text = await new Response(Deno.stdin.readable).text();
  const request: FunctionRequest = JSON.parse(text);
  if (!request.request_id || !request.function || !request.input) {
    throw new Error("the request lacks request_id, function or input");
  }
  requestId = request.request_id;

  const name = request.input.name ?? "World";
  respond({
    success: true,
    output: {
      message: `Hello, ${name}! (from Deno)`,
      runtime: "deno",
      version: Deno.version.deno,
    },
  });
} catch (error) {
  respond({
    success: false,
    error: { code: "EXECUTION_ERROR", message: (error as Error).message },
  });
  Deno.exit(1);
}

function respond(response: Record<string, unknown>) {
  console.log(JSON.stringify({ request_id: requestId, ...response }));
}
