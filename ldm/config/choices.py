"""The registry: what a config may choose, by `name:`. A new part is listed here, in one line.

Nothing is imported by a string, so a config from a stranger can choose what stands here alone.
"""

from ldm.diffusion import consistency, denoiser
from ldm.diffusion.schedules import continuous, discrete
from ldm.diffusion.solvers import ddpm, few, foreign, multistep, ode, sde
from ldm.jets import data as jet_data
from ldm.jets import network as jet_network
from ldm.jets import space as jet_space
from ldm.metrics import perceptual
from ldm.networks import autoencoder, text, unet
from ldm.pictures import folders, given, images, trained
from ldm.pictures import space as picture_space
from ldm.points import data as point_data
from ldm.points import network as point_network
from ldm.points import space as point_space

AnyData = (
    images.Digits
    | images.MNIST
    | images.FashionMNIST
    | images.Clothes
    | images.CIFAR10
    | folders.ImageFolder
    | given.Given
    | jet_data.JetNet
    | point_data.Points
)

AnySpace = picture_space.Pixels | picture_space.Latents | jet_space.PointCloud | point_space.Plain

AnyNetwork = unet.UNet | jet_network.SetTransformer | point_network.MLP

AnyAutoencoder = autoencoder.AutoencoderKL | autoencoder.VQModel

AnyPerceptual = perceptual.LPIPS | perceptual.EfficientNet

AnyText = text.MiniLM | text.CLIPText

# what a model is trained for
AnyPurpose = trained.Generate | trained.Inpaint | trained.SuperResolve

AnySchedule = (
    continuous.VP
    | continuous.SubVP
    | continuous.Cosine
    | continuous.VE
    | continuous.Linear
    | discrete.Discrete
)

AnyLoss = denoiser.Loss | consistency.Consistency

AnySolver = (
    ddpm.DDPM
    | ddpm.DDIM
    | ode.Euler
    | ode.Heun
    | sde.EulerMaruyama
    | sde.PredictorCorrector
    | sde.EDMStochastic
    | multistep.DPMpp2M
    | multistep.DPMpp2MSDE
    | multistep.DPMpp3M
    | ode.AdaptiveODE
    | few.Consistency
    | foreign.Diffusers
)
