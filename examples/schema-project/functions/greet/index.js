exports.handler = async (ctx) => {
  const name = ctx.input.name ?? 'World';
  return { message: `Hello, ${name}!` };
};
