"""The figures in the lecture's order: a line each, and a file of the name each."""

from ldm.lecture.base import Topic

TOPICS = (
    Topic(1, "forward", "The chain step by step is the jump to t", "the chain forgets to shrink"),
    Topic(2, "schedules", "Schedules: what is left of the data", "an end that is not noise"),
    Topic(3, "score", "The score of a mixture, from noise to data", "eps taken for the score"),
    Topic(4, "learnt", "The learnt field and the exact one", "training never sees t below 0.5"),
    Topic(5, "predictions", "One model, four losses", "x0's loss with eps' weight"),
    Topic(6, "ddpm", "Algorithm 2, step by step", "the noise z is left out"),
    Topic(7, "sde-ode", "Reverse SDE and probability flow", "the SDE with the ODE's drift"),
    Topic(8, "ddim", "DDIM: eta and few steps", "noise is added, and none taken out for it"),
    Topic(9, "orders", "The order of every solver", "x0_hat is clipped"),
    Topic(
        10,
        "matching",
        "Denoising score matching is the same loss",
        "the target is new noise",
    ),
    Topic(11, "likelihood", "Likelihood: exact, and by Hutchinson", "without the divergence"),
    Topic(12, "guidance", "Guidance: sharper, and less varied", "a scale of 12"),
    Topic(13, "autoencoder", "The autoencoder", "training decodes the mean, never a sample"),
    Topic(14, "clock", "Latents against pixels on a clock", "stage 1 has collapsed"),
    Topic(15, "posteriors", "The uses against the exact posterior", "without new noise"),
    Topic(16, "memory", "From memory to generalisation", "the exact optimum, no network"),
    Topic(17, "text", "One prompt, guidance 0 to 8", "condition and null have changed places"),
    Topic(18, "jets", "From noise to a jet", "particles are shuffled between jets"),
)
