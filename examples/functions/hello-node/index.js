// A stdio function: the request comes on stdin, the response goes to stdout.
// This is how functions are written for Alyx; here it runs as it is.

async function main() {
  let requestId = 'unknown';
  try {
    const chunks = [];
    for await (const chunk of process.stdin) chunks.push(chunk);
    const request = JSON.parse(Buffer.concat(chunks).toString());
    if (!request.request_id || !request.function || !request.input) {
      throw new Error('the request lacks request_id, function or input');
    }
    requestId = request.request_id;

    const name = request.input.name ?? 'World';
    respond({
      request_id: requestId,
      success: true,
      output: {
        message: `Hello, ${name}! (from Node.js)`,
        runtime: 'node',
        version: process.version,
      },
    });
  } catch (error) {
    process.exitCode = 1;
    respond({
      request_id: requestId,
      success: false,
      error: { code: 'EXECUTION_ERROR', message: error.message },
    });
  }
}

function respond(response) {
  console.log(JSON.stringify(response));
}

main();
