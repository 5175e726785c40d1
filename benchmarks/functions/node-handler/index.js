exports.handler = (ctx) => ctx.input;
